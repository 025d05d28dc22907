// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * New connections of unix sockets, by path and by abstract name, and unix datagrams to an address: refused with EPERM.
 *
 * What is connected already goes on, and so does a connection that somebody outside makes to a listening unix socket
 * of the agent: these hooks know who calls, and there is none for who is called. E16a and E16f in the catalogue.
 * Linux 6.7 and later.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_unix, __u64, 1); /* calls refused, for all isolations together */

int wd_unix_connect(struct bpf_sock_addr *call)
{
        wd_unix.atomic_increment(0);
        return WD_REFUSE;
}

int wd_unix_sendmsg(struct bpf_sock_addr *call)
{
        wd_unix.atomic_increment(0);
        return WD_REFUSE;
}
