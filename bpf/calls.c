// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Immediate refusals for IPv4 and IPv6, with EPERM: connections, bound ports, and datagrams to an address. Judged by
 * the socket's cgroup, in every network namespace.
 *
 * What was connected before is not seen here: the packet hooks stop that; these keep the agent from waiting for a
 * timeout. As no packet follows a refused call, whom it was for is remembered here.
 *
 * Making a socket is not refused: one that reaches nobody carries nothing, and it would never be known whom it was for.
 * Multipath TCP is the exception. Its connect is not shown to connect4, so it would wait for a timeout; programs that
 * may not have it take plain TCP.
 */
#include "wd.h"

#define WD_TRIED_MAX 4096 /* the least recent make room. tried.py: TRIED_MAX */

/* Whom a call was for. tried.py: KEY */
struct wd_tried_key {
        __u64 cgroup;     /* of the process that called */
        __u32 address[4]; /* network order; IPv4 in the first */
        __be16 port;
        __u8 family; /* 4, 6 */
        __u8 protocol;
        __u32 zero;
};
_Static_assert(sizeof(struct wd_tried_key) == 32, "tried.py: KEY");

/* tried.py: VALUE. Times are CLOCK_BOOTTIME, the process is the last one. */
struct wd_tried {
        __u64 first_ns, last_ns;
        __u64 times;
        __u32 pid, zero;
        char command[16];
};
_Static_assert(sizeof(struct wd_tried) == 48, "tried.py: VALUE");

BPF_TABLE("lru_hash", struct wd_tried_key, struct wd_tried, wd_tried, WD_TRIED_MAX);
BPF_PERCPU_ARRAY(wd_calls, __u64, 1); /* calls refused, for all isolations together */

enum { MULTIPATH_TCP = 262 }; /* IPPROTO_MPTCP */

static inline __attribute__((always_inline)) int refuse(void)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

static inline __attribute__((always_inline)) void remember(struct wd_tried_key *key)
{
        __u64 now_ns = bpf_ktime_get_boot_ns();
        struct wd_tried *known = wd_tried.lookup(key), fresh = {};

        if (!known) {
                fresh.first_ns = now_ns;
                wd_tried.insert(key, &fresh);
                known = wd_tried.lookup(key);
        }
        if (!known)
                return; /* no memory for it: refused all the same */
        known->last_ns = now_ns;
        __sync_fetch_and_add(&known->times, 1);
        known->pid = bpf_get_current_pid_tgid() >> 32;
        bpf_get_current_comm(known->command, sizeof(known->command));
}

static inline __attribute__((always_inline)) int refuse_v4(struct bpf_sock_addr *call)
{
        struct wd_tried_key key = {.family = 4};

        key.cgroup = bpf_get_current_cgroup_id();
        key.address[0] = call->user_ip4;
        key.port = call->user_port;
        key.protocol = call->protocol;
        remember(&key);
        return refuse();
}

static inline __attribute__((always_inline)) int refuse_v6(struct bpf_sock_addr *call)
{
        struct wd_tried_key key = {.family = 6};

        key.cgroup = bpf_get_current_cgroup_id();
        key.address[0] = call->user_ip6[0];
        key.address[1] = call->user_ip6[1];
        key.address[2] = call->user_ip6[2];
        key.address[3] = call->user_ip6[3];
        key.port = call->user_port;
        key.protocol = call->protocol;
        remember(&key);
        return refuse();
}

int wd_sock_create(struct bpf_sock *sock)
{
        return sock->protocol == MULTIPATH_TCP ? refuse() : WD_PASS;
}

int wd_connect4(struct bpf_sock_addr *call)
{
        return refuse_v4(call);
}

int wd_connect6(struct bpf_sock_addr *call)
{
        return refuse_v6(call);
}

int wd_bind4(struct bpf_sock_addr *call)
{
        return refuse();
}

int wd_bind6(struct bpf_sock_addr *call)
{
        return refuse();
}

int wd_sendmsg4(struct bpf_sock_addr *call)
{
        return refuse_v4(call);
}

int wd_sendmsg6(struct bpf_sock_addr *call)
{
        return refuse_v6(call);
}
