// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Options of packet and XDP sockets are refused with EPERM: without them no packet socket leaves the queueing layer
 * behind, where tc is, and no XDP socket gets the memory it needs. So are those that change a membership in a multicast
 * or anycast group, of IPv4 and IPv6: the kernel reports each change to the link, with the addresses of the group and
 * of its sources, which are the agent's to choose, and in packets that are no socket's of the agent. Every other option
 * is left alone, and so is going back to the queueing layer, which the watcher wants too: judged is the socket's
 * cgroup, whoever asks.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_options, __u64, 1); /* calls refused, for all isolations together */

enum { /* <linux/if_packet.h>, <linux/in.h>, <linux/in6.h> */
        LEVEL_IPV4 = 0,          /* IPPROTO_IP */
        LEVEL_IPV6 = 41,         /* IPPROTO_IPV6 */
        LEVEL_PACKET = 263,      /* SOL_PACKET */
        LEVEL_XDP = 283,         /* SOL_XDP */
        QDISC_BYPASS = 20,       /* PACKET_QDISC_BYPASS */
        FIRST_OF_IPV4 = 35,      /* IP_ADD_MEMBERSHIP; they follow each other up to MCAST_MSFILTER */
        FIRST_OF_BOTH = 42,      /* MCAST_JOIN_GROUP: of both levels from here on */
        LAST_OF_BOTH = 48,       /* MCAST_MSFILTER */
        JOIN_GROUP_IPV6 = 20,    /* IPV6_JOIN_GROUP */
        LEAVE_GROUP_IPV6 = 21,   /* IPV6_LEAVE_GROUP */
        JOIN_ANYCAST_IPV6 = 27,  /* IPV6_JOIN_ANYCAST */
        LEAVE_ANYCAST_IPV6 = 28, /* IPV6_LEAVE_ANYCAST */
};

static inline __attribute__((always_inline)) int ends_bypass(struct bpf_sockopt *call)
{
        __u32 *wanted = call->optval;

        return call->level == LEVEL_PACKET && call->optname == QDISC_BYPASS &&
               (void *)(wanted + 1) <= call->optval_end && *wanted == 0;
}

static inline __attribute__((always_inline)) int changes_membership(struct bpf_sockopt *call)
{
        __s32 name = call->optname;

        if (call->level == LEVEL_IPV4)
                return name >= FIRST_OF_IPV4 && name <= LAST_OF_BOTH;
        if (call->level != LEVEL_IPV6)
                return 0;
        return name == JOIN_GROUP_IPV6 || name == LEAVE_GROUP_IPV6 || name == JOIN_ANYCAST_IPV6 ||
               name == LEAVE_ANYCAST_IPV6 || (name >= FIRST_OF_BOTH && name <= LAST_OF_BOTH);
}

static inline __attribute__((always_inline)) int is_refused(struct bpf_sockopt *call)
{
        if (call->level == LEVEL_PACKET || call->level == LEVEL_XDP)
                return !ends_bypass(call);
        return changes_membership(call);
}

int wd_setsockopt(struct bpf_sockopt *call)
{
        if (is_refused(call)) {
                wd_options.atomic_increment(0);
                return WD_REFUSE;
        }
        /* The kernel shows us a page of the value at most, and takes a longer one for our mistake (EFAULT) unless we
         * say by length 0 that we want none of it changed. Of any other it takes what another program has made: a
         * value of its own, or length -1, which keeps the option from the kernel. */
        if (call->optlen > call->optval_end - call->optval)
                call->optlen = 0;
        return WD_PASS;
}
