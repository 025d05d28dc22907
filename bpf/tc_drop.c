// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The host end of an agent's own veth: nothing passes, whoever sent it. For a namespace in which all is the agent's.
 *
 * It stops what no filter inside the namespace can: AF_XDP, TUN, PACKET_QDISC_BYPASS, sniffing, sockets of a
 * process that left its cgroup, and the answers that the namespace's kernel gives by itself.
 */
#include "wd.h"
#include <uapi/linux/pkt_cls.h>

#define WD_TC_CUTS 1024 /* isolations that cut a veth at once */

/* Seen from the link that is cut: in is what the agent sent. watchdog/kernel/tc_maps.py unpacks it. */
struct wd_tc_cut_traffic {
        struct wd_traffic in, out;
};
_Static_assert(sizeof(struct wd_tc_cut_traffic) == 32, "tc_maps.py: CUT_FIELDS");

/* By the isolation's number; user space makes the entry, so that a stale filter cannot fill the map. */
BPF_TABLE("percpu_hash", __u32, struct wd_tc_cut_traffic, wd_tc_cut, WD_TC_CUTS);

/* The isolation's number by its tag, the filter's classid. A program sees only the low 16 bits of a classid
 * (struct qdisc_skb_cb has a u16), and isolations have larger numbers once a kernel has loaded 65,535 programs. */
BPF_HASH(wd_tc_tag, __u32, __u32, WD_TC_CUTS);

static inline __attribute__((always_inline)) struct wd_tc_cut_traffic *wd_tc_cut_of(struct __sk_buff *skb)
{
        __u32 tag = skb->tc_classid; /* cls_bpf puts the filter's classid there before it runs us */
        __u32 *isolation = wd_tc_tag.lookup(&tag);

        return isolation ? wd_tc_cut.lookup(isolation) : NULL;
}

static inline __attribute__((always_inline)) int wd_tc_cut_off(struct __sk_buff *skb, struct wd_traffic *traffic)
{
        __sync_fetch_and_add(&traffic->packets, 1);
        __sync_fetch_and_add(&traffic->bytes, skb->len);
        return TC_ACT_SHOT;
}

int wd_tc_drop_in(struct __sk_buff *skb)
{
        struct wd_tc_cut_traffic *cut = wd_tc_cut_of(skb);

        return cut ? wd_tc_cut_off(skb, &cut->in) : TC_ACT_SHOT;
}

int wd_tc_drop_out(struct __sk_buff *skb)
{
        struct wd_tc_cut_traffic *cut = wd_tc_cut_of(skb);

        return cut ? wd_tc_cut_off(skb, &cut->out) : TC_ACT_SHOT;
}
