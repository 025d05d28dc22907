// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets that an isolated agent has from elsewhere: made before its processes were moved in, passed over a unix
 * socket, or opened for it by systemd. They belong to the cgroup in which they were made, so the packets of the agent's
 * own cgroup never see them; this is attached to the cgroup they do belong to, and drops by the socket's cookie.
 *
 * Everybody else's packets there pass. A cookie is never given twice, so an entry can outlive its socket. What is
 * dropped is counted by isolation, and is recorded as flows as in cgroup_skb.c; the flows of all isolations are in one
 * hash, of which the least recently seen make room.
 */
#include "wd_packet.h"
#include "wd_sockets.h"

#define WD_MADE_FLOWS 4096      /* elsewhere.py: FLOWS_MAX */
#define WD_MADE_ISOLATIONS 1024 /* with such sockets at once, on one host */

/* Not preallocated: it is empty on most hosts, and only user space adds to it. */
BPF_F_TABLE("hash", __u64, struct wd_elsewhere, wd_cookies, WD_COOKIES_MAX, BPF_F_NO_PREALLOC);

/* By isolation; user space makes the entry, and what has none is dropped without being counted. */
BPF_F_TABLE("percpu_hash", __u32, struct wd_made_count, wd_made_count, WD_MADE_ISOLATIONS, BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct wd_made_key, struct wd_flow, wd_made_flows, WD_MADE_FLOWS);

wd_inline void record_made(struct wd_packet *packet, __u32 isolation, __u32 bytes, struct wd_made_count *count)
{
        struct wd_made_key key = {.flow = packet->flow, .isolation = isolation};
        struct wd_flow first = {.packets = 1, .bytes = bytes, .source_port = packet->source_port};
        struct wd_flow *flow = wd_made_flows.lookup(&key);

        if (flow)
                return wd_add_to(flow, packet, bytes);
        first.first_ns = first.last_ns = bpf_ktime_get_boot_ns();
        if (wd_made_flows.insert(&key, &first) == 0) {
                __sync_fetch_and_add(&count->flows_seen, 1);
                return;
        }
        flow = wd_made_flows.lookup(&key); /* another CPU was quicker */
        if (flow)
                wd_add_to(flow, packet, bytes);
        else
                __sync_fetch_and_add(&count->flows_lost, 1);
}

wd_inline int drop_if_listed(struct __sk_buff *skb, __u32 direction)
{
        __u64 cookie = bpf_get_socket_cookie(skb);
        struct wd_elsewhere *listed = wd_cookies.lookup(&cookie);
        struct wd_made_count *count;
        struct wd_packet packet = {};
        __u32 isolation;

        if (!listed)
                return WD_PASS;
        isolation = listed->isolation;
        count = wd_made_count.lookup(&isolation);
        if (!count)
                return WD_DROP;
        wd_add_traffic(direction == WD_INGRESS ? &count->in : &count->out, skb->len);
        wd_read(skb, direction, &packet);
        record_made(&packet, isolation, skb->len, count);
        return WD_DROP;
}

int wd_cookie_in(struct __sk_buff *skb)
{
        return drop_if_listed(skb, WD_INGRESS);
}

int wd_cookie_out(struct __sk_buff *skb)
{
        return drop_if_listed(skb, WD_EGRESS);
}
