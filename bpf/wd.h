/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What every program set in bpf/ shares with each other and with Python.
 *
 * Read by the *.c files beside it (BCC compiles them, watchdog/kernel/builder.py says how) and, by hand, by
 * watchdog/kernel/programs.py: names, hooks and sizes there are those here, and tests/kernel compares them
 * with what the kernel reports.
 *
 * UAPI types only. The headers we compile against may be of another kernel than the one that runs, and only
 * what the kernel promises to programs (struct __sk_buff and the like) is the same in both.
 *
 * Names start with wd_ and have at most 15 characters, so that the kernel keeps them whole.
 */
#ifndef WD_H
#define WD_H

#include <uapi/linux/bpf.h>

/* A cgroup program's answer; the egress hook knows more (2, 3: congestion), which we never give. */
enum wd_verdict {
        WD_DROP = 0,
        WD_REFUSE = 0, /* the call's errno is EPERM */
        WD_PASS = 1,
};

/* Keys of wd_count: the hook's number in enum bpf_attach_type. */
enum wd_direction {
        WD_INGRESS = BPF_CGROUP_INET_INGRESS,
        WD_EGRESS = BPF_CGROUP_INET_EGRESS,
        WD_DIRECTIONS,
};
_Static_assert(WD_INGRESS == 0 && WD_EGRESS == 1 && WD_DIRECTIONS == 2, "programs.py: Hook");

/* Values of wd_count, one per CPU; watchdog/kernel/slots.py unpacks them as two native u64. */
struct wd_traffic {
        __u64 packets; /* as the hook sees them: a send that the card would split counts once */
        __u64 bytes;   /* network header and all above it, no link header */
};
_Static_assert(sizeof(struct wd_traffic) == 16, "slots.py: TRAFFIC_FIELDS");

#endif
