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

/* The hook's number in enum bpf_attach_type. */
enum wd_direction {
        WD_INGRESS = BPF_CGROUP_INET_INGRESS,
        WD_EGRESS = BPF_CGROUP_INET_EGRESS,
        WD_DIRECTIONS,
};
_Static_assert(WD_INGRESS == 0 && WD_EGRESS == 1 && WD_DIRECTIONS == 2, "programs.py: Hook");

/* Values of wd_count, one per CPU: by direction what was dropped, then by direction what the allow-list let pass.
 * watchdog/kernel/slots.py unpacks them as two native u64. */
struct wd_traffic {
        __u64 packets; /* as the hook sees them: a send that the card would split counts once */
        __u64 bytes;   /* network header and all above it, no link header */
};
_Static_assert(sizeof(struct wd_traffic) == 16, "slots.py: TRAFFIC_FIELDS");

/* One entry of an allow-list, and what a packet is looked up by. The trie compares the first `bits` bits of what
 * follows it, so that all but the address is always compared whole. watchdog/kernel/allow.py packs it. */
enum wd_way {
        WD_OUTWARD = 0, /* connections that begin inside: `port` is the other side's */
        WD_INWARD = 1,  /* a watcher's, that begin outside, over the loopback link: `port` is the agent's own */
        WD_WATCHER = 2, /* who may begin those: `remote` is the id of its cgroup, in our byte order */
        WD_FAR = 3,     /* as WD_INWARD over any other link, whoever has that address there */
};
struct wd_allow_key {
        __u32 bits;
        __u8 way_and_family; /* enum wd_way << 4 | 4 or 6 */
        __u8 protocol;       /* IPPROTO_* */
        __be16 port;         /* 0: any */
        __u32 remote[4];     /* network order; IPv4 in the first */
};
#define WD_ALLOW_BITS (8 * (sizeof(struct wd_allow_key) - sizeof(__u32)))
_Static_assert(sizeof(struct wd_allow_key) == 24, "allow.py: KEY");

/* Its value: CLOCK_BOOTTIME in ns until which it holds, 0 for always. allow.py: DEADLINE */
typedef __u64 wd_deadline;

/* Who was talked to: packets that differ only in the port they come from are one flow. flows.py: KEY */
struct wd_flow_key {
        __u8 direction; /* enum wd_direction */
        __u8 family;    /* 4, 6; 0 where the packet said neither */
        __u8 protocol;  /* IPPROTO_*, for IPv6 the first header after the fixed one */
        __u8 zero;
        __be16 port; /* of the destination; 0 where it could not be read or there is none */
        __u16 zero2;
        __u32 source[4], destination[4]; /* network order; IPv4 in the first */
};
_Static_assert(sizeof(struct wd_flow_key) == 40, "flows.py: KEY");

/* flows.py: VALUE. Times are CLOCK_BOOTTIME. */
struct wd_flow {
        __u64 first_ns, last_ns;
        __u64 packets, bytes;
        __be16 source_port; /* of the last packet */
        __u16 zero[3];
};
_Static_assert(sizeof(struct wd_flow) == 40, "flows.py: VALUE");

/* A flow's first packet, in the ring. flows.py: EVENT */
struct wd_flow_event {
        struct wd_flow_key key;
        __u64 at_ns;
        __u32 bytes;
        __be16 source_port;
        __u16 zero;
};
_Static_assert(sizeof(struct wd_flow_event) == 56, "flows.py: EVENT");

/* Keys of wd_tally, one u64 per CPU. flows.py: Tally */
enum wd_tally {
        WD_FLOWS_SEEN,
        WD_FLOWS_LOST,  /* packets of flows for which there was no memory */
        WD_EVENTS_LOST, /* first packets for which the ring had no room */
        WD_TALLIES,
};

#endif
