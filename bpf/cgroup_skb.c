// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The layer that must not fail: every IP packet of the cgroup's sockets, in and out, is counted and dropped.
 *
 * IPv4 and IPv6, TCP, UDP, ICMP and raw, loopback, established connections, child cgroups, other network
 * namespaces. It never sees packet, XDP, TUN, vsock and unix sockets, nor sockets that were made in another
 * cgroup: other program sets are for those.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_count, struct wd_traffic, WD_DIRECTIONS);

static inline __attribute__((always_inline)) int count_and_drop(struct __sk_buff *skb, __u32 direction)
{
        struct wd_traffic *traffic = wd_count.lookup(&direction);

        if (!traffic)
                return WD_DROP; /* cannot happen; the verifier wants it asked, and closed is the answer */
        /* Atomic although per CPU: egress runs in the sender's context and a softirq may send on top of it. */
        __sync_fetch_and_add(&traffic->packets, 1);
        __sync_fetch_and_add(&traffic->bytes, skb->len);
        return WD_DROP;
}

int wd_ingress(struct __sk_buff *skb)
{
        return count_and_drop(skb, WD_INGRESS);
}

int wd_egress(struct __sk_buff *skb)
{
        return count_and_drop(skb, WD_EGRESS);
}
