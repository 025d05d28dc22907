// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Frames of packet sockets never meet the cgroup hooks: they go straight to the link. This filter stands at the
 * link's egress and drops those of the isolated cgroups, new sockets' and old ones' alike.
 *
 * One filter a link serves every isolation, since the link is shared with everybody: what is not the isolated
 * agents' goes on to the filters behind ours as if we were not there. PACKET_QDISC_BYPASS and AF_XDP do not come
 * by here (dev_direct_xmit), nor does what another process sends on an agent's behalf.
 */
#include "wd.h"
#include <uapi/linux/pkt_cls.h>

#define WD_TC_CGROUPS 1024 /* isolated at once, on one host */
#define WD_TC_COOKIES 4096 /* packet sockets that were made elsewhere, of all isolations */
#define WD_TC_LEVELS 32    /* ancestors asked; a socket deeper than that is known by its own cgroup only */

/* include/linux/socket.h; no UAPI header has them */
#define WD_AF_INET 2
#define WD_AF_INET6 10

/* Cgroup ids; the value is the isolation's number. watchdog/kernel/tc_maps.py packs both. */
BPF_HASH(wd_tc_cgroups, __u64, __u32, WD_TC_CGROUPS);

/* The same for sockets that the agent holds and that were made in another cgroup, by their cookie. */
BPF_HASH(wd_tc_cookies, __u64, __u32, WD_TC_COOKIES);

/* By the isolation's number; user space makes the entry, so that a stale filter cannot fill the map. */
BPF_TABLE("percpu_hash", __u32, struct wd_traffic, wd_tc_count, WD_TC_CGROUPS);

static inline __attribute__((always_inline)) int wd_tc_shoot(struct __sk_buff *skb, __u32 *isolation)
{
        struct wd_traffic *traffic = wd_tc_count.lookup(isolation);

        if (traffic) {
                /* Atomic although per CPU: a softirq may send on top of the sender's context. */
                __sync_fetch_and_add(&traffic->packets, 1);
                __sync_fetch_and_add(&traffic->bytes, skb->len);
        }
        return TC_ACT_SHOT;
}

int wd_tc_egress(struct __sk_buff *skb)
{
        struct bpf_sock *sk = skb->sk;
        __u32 *isolation;
        __u64 id;
        int level;

        if (!sk)
                return TC_ACT_UNSPEC; /* forwarded, or the kernel's own: nobody's that we could ask */
        if (sk->family == WD_AF_INET || sk->family == WD_AF_INET6)
                return TC_ACT_UNSPEC; /* judged at its cgroup, by an allow-list that we do not have */

        /* A socket's own cgroup is the last of its ancestors. Level 0 is the root, which is never isolated. */
        for (level = 1; level <= WD_TC_LEVELS; level++) {
                id = bpf_skb_ancestor_cgroup_id(skb, level);
                if (!id)
                        break;
                isolation = wd_tc_cgroups.lookup(&id);
                if (isolation)
                        return wd_tc_shoot(skb, isolation);
        }
        if (level > WD_TC_LEVELS) {
                id = bpf_skb_cgroup_id(skb);
                isolation = wd_tc_cgroups.lookup(&id);
                if (isolation)
                        return wd_tc_shoot(skb, isolation);
        }
        id = bpf_get_socket_cookie(skb);
        isolation = wd_tc_cookies.lookup(&id);
        return isolation ? wd_tc_shoot(skb, isolation) : TC_ACT_UNSPEC;
}
