// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Immediate refusals for IPv4 and IPv6: new sockets, connections, bound ports, and datagrams to an address.
 *
 * Every one answers EPERM, also in another network namespace. What was connected before is not seen here: the packet
 * hooks stop that; these keep the agent from waiting for a timeout. Judged by the socket's cgroup.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_calls, __u64, 1); /* calls refused, for all isolations together */

int wd_sock_create(struct bpf_sock *sock)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_connect4(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_connect6(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_bind4(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_bind6(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_sendmsg4(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}

int wd_sendmsg6(struct bpf_sock_addr *call)
{
        wd_calls.atomic_increment(0);
        return WD_REFUSE;
}
