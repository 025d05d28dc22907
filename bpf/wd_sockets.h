/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What cookies.c and owners.c share with watchdog/kernel/sockets.py and watchdog/kernel/elsewhere.py. */
#ifndef WD_SOCKETS_H
#define WD_SOCKETS_H

#include "wd.h"

#define WD_COOKIES_MAX 65536 /* an entry takes about 80 bytes */

/* Values of wd_cookies, of which the key is a socket's cookie. */
struct wd_elsewhere {
        __u32 isolation; /* the one that wants it dropped: id of its wd_ingress */
        __u32 zero;
        __u64 point; /* id of the cgroup where the programs are attached that see it */
};
_Static_assert(sizeof(struct wd_elsewhere) == 16, "elsewhere.py: ELSEWHERE");

/* What was dropped of an isolation's sockets from elsewhere, one per CPU. */
struct wd_made_count {
        struct wd_traffic in, out;
        __u64 flows_seen, flows_lost; /* as WD_FLOWS_SEEN and WD_FLOWS_LOST */
};
_Static_assert(sizeof(struct wd_made_count) == 48, "elsewhere.py: COUNT_FIELDS");

struct wd_made_key {
        struct wd_flow_key flow;
        __u32 isolation;
        __u32 zero;
};
_Static_assert(sizeof(struct wd_made_key) == 48, "elsewhere.py: FLOW_KEY");

/* A level of getsockopt that no protocol has ("wd" and a number), and its options. */
#define WD_LEVEL 0x77640001
#define WD_OPTION_WHOSE 1
#define WD_OPTION_BELOW 2

/* What these options answer, where one does. */
struct wd_owned {
        __u32 family;   /* AF_* */
        __u32 type;     /* SOCK_* */
        __u32 protocol; /* IPPROTO_* */
};
_Static_assert(sizeof(struct wd_owned) == 12, "sockets.py: OWNED");

#endif
