// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Options of packet and XDP sockets are refused with EPERM: without them no packet socket leaves the queueing layer
 * behind, where tc is, and no XDP socket gets the memory it needs. Every other option is left alone, and so is going
 * back to the queueing layer, which the watcher wants too: judged is the socket's cgroup, whoever asks.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_options, __u64, 1); /* calls refused, for all isolations together */

enum {
        LEVEL_PACKET = 263, /* SOL_PACKET */
        LEVEL_XDP = 283,    /* SOL_XDP */
        QDISC_BYPASS = 20,  /* PACKET_QDISC_BYPASS */
};

static inline __attribute__((always_inline)) int ends_bypass(struct bpf_sockopt *call)
{
        __u32 *wanted = call->optval;

        return call->level == LEVEL_PACKET && call->optname == QDISC_BYPASS &&
               (void *)(wanted + 1) <= call->optval_end && *wanted == 0;
}

int wd_setsockopt(struct bpf_sockopt *call)
{
        if ((call->level == LEVEL_PACKET || call->level == LEVEL_XDP) && !ends_bypass(call)) {
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
