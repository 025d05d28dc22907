// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * To whom a socket belongs is decided when it is made and shown nowhere, but the kernel runs getsockopt programs by
 * it: whoever holds the socket, an option that no socket has is answered by the program of the cgroup that owns it.
 *
 * wd_whose is attached to an isolated cgroup, wd_below where cookies.c is; each answers an option of its own.
 */
#include "wd_sockets.h"

BPF_PERCPU_ARRAY(wd_owners, __u64, 1);

/*
 * Not ours to answer. The programs of the cgroups below have run before and those above run after, on one value: what
 * the kernel or another program has answered stays, and so does the length that the next one sees. The kernel shows us
 * a page of the value at most, and takes a longer one for our mistake (EFAULT) unless we say by length 0 that we want
 * none of it changed.
 */
static inline __attribute__((always_inline)) int leave(struct bpf_sockopt *call)
{
        if (call->optlen > call->optval_end - call->optval)
                call->optlen = 0;
        return WD_PASS;
}

static inline __attribute__((always_inline)) int answer(struct bpf_sockopt *call, int option)
{
        struct wd_owned *owned = call->optval;
        struct bpf_sock *sock = call->sk;

        if (call->level != WD_LEVEL || call->optname != option)
                return leave(call);
        if (!sock || (void *)(owned + 1) > call->optval_end)
                return leave(call); /* asked with too little room: as if nobody answered */
        wd_owners.atomic_increment(0);
        owned->family = sock->family;
        owned->type = sock->type;
        owned->protocol = sock->protocol;
        call->optlen = sizeof(*owned);
        /* Or the compiler writes both fields at once: "invalid bpf_context access", Linux 6.18. */
        asm volatile("" ::: "memory");
        call->retval = 0;
        return WD_PASS;
}

int wd_whose(struct bpf_sockopt *call)
{
        return answer(call, WD_OPTION_WHOSE);
}

int wd_below(struct bpf_sockopt *call)
{
        return answer(call, WD_OPTION_BELOW);
}
