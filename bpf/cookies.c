// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets that an isolated agent has from elsewhere: made before its processes were moved in, passed over a unix
 * socket, or opened for it by systemd. They belong to the cgroup in which they were made, so the packets of the agent's
 * own cgroup never see them; this is attached to the cgroup they do belong to, and drops by the socket's cookie.
 *
 * Everybody else's packets there pass. A cookie is never given twice, so an entry can outlive its socket.
 */
#include "wd_sockets.h"

/* Not preallocated: it is empty on most hosts, and only user space adds to it. */
BPF_F_TABLE("hash", __u64, struct wd_elsewhere, wd_cookies, WD_COOKIES_MAX, BPF_F_NO_PREALLOC);

static inline __attribute__((always_inline)) int drop_if_listed(struct __sk_buff *skb)
{
        __u64 cookie = bpf_get_socket_cookie(skb);

        return wd_cookies.lookup(&cookie) ? WD_DROP : WD_PASS;
}

int wd_cookie_in(struct __sk_buff *skb)
{
        return drop_if_listed(skb);
}

int wd_cookie_out(struct __sk_buff *skb)
{
        return drop_if_listed(skb);
}
