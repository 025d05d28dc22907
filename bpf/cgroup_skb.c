// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The layer that must not fail: every IP packet of the cgroup's sockets, in and out, is dropped unless the allow-list
 * of its isolation names it.
 *
 * IPv4 and IPv6, TCP, UDP, ICMP and raw, loopback, established connections, child cgroups, other network
 * namespaces. It never sees packet, XDP, TUN, vsock and unix sockets, nor sockets that were made in another
 * cgroup: other program sets are for those.
 *
 * Three pairs share the maps. Every program attached to a cgroup runs for every packet, and one that drops is enough.
 * - wd_ingress, wd_egress drop and count. A unit's drop-in names them, so that systemd attaches them at every start.
 * - wd_guard_in, wd_guard_out drop and do not count. They are attached by us alone: at every daemon-reload systemd
 *   detaches what it attached, for a moment, and attaches it again.
 * - wd_shadow_in, wd_shadow_out count what the first pair would drop, and drop nothing.
 */
#include "wd_packet.h"

#define WD_FLOWS 4096        /* the least recently seen make room */
#define WD_RING_PAGES 16     /* 1,023 first packets, kept until the isolation ends */
#define WD_ALLOW_KEYS 65536  /* only those in use take memory */
#define WD_COUNTS (2 * WD_DIRECTIONS)
#define WD_LOOPBACK 1 /* the index of every namespace's loopback link; include/net/net_namespace.h */

BPF_PERCPU_ARRAY(wd_count, struct wd_traffic, WD_COUNTS);
BPF_PERCPU_ARRAY(wd_tally, __u64, WD_TALLIES);
BPF_TABLE("lru_hash", struct wd_flow_key, struct wd_flow, wd_flows, WD_FLOWS);
BPF_RINGBUF_OUTPUT(wd_events, WD_RING_PAGES);
BPF_LPM_TRIE(wd_allow_none, struct wd_allow_key, wd_deadline, WD_ALLOW_KEYS); /* what wd_allow's lists look like */
BPF_ARRAY_OF_MAPS(wd_allow, "wd_allow_none", 1); /* one list, exchanged as a whole; none: nothing is allowed */

wd_inline void count(__u32 what, struct __sk_buff *skb)
{
        struct wd_traffic *traffic = wd_count.lookup(&what);

        if (traffic)
                wd_add_traffic(traffic, skb->len);
}

wd_inline void tally(__u32 what)
{
        __u64 *number = wd_tally.lookup(&what);

        if (number)
                __sync_fetch_and_add(number, 1);
}

wd_inline int listed(void *list, struct wd_packet *packet, enum wd_way way, __be16 port)
{
        int outward_bound = packet->flow.direction == WD_EGRESS;
        struct wd_allow_key key = {
                .bits = WD_ALLOW_BITS,
                .way_and_family = way << 4 | packet->flow.family,
                .protocol = packet->flow.protocol,
                .port = port,
        };
        __u32 *remote = outward_bound ? packet->flow.destination : packet->flow.source;
        wd_deadline *until;

        __builtin_memcpy(key.remote, remote, sizeof(key.remote));
        until = bpf_map_lookup_elem(list, &key);
        return until && (*until == 0 || bpf_ktime_get_boot_ns() < *until);
}

wd_inline void *current_list(void)
{
        __u32 only = 0;

        return wd_allow.lookup(&only);
}

wd_inline int is_watcher(void *list, struct bpf_sock *sk)
{
        struct wd_allow_key key = {.bits = WD_ALLOW_BITS, .way_and_family = WD_WATCHER << 4};
        __u64 cgroup;

        sk = bpf_sk_fullsock(sk);
        if (!sk || sk->state == BPF_TCP_LISTEN)
                return 0;
        cgroup = bpf_sk_cgroup_id(sk);
        __builtin_memcpy(key.remote, &cgroup, sizeof(cgroup));
        return bpf_map_lookup_elem(list, &key) != NULL;
}

/*
 * Whether the other end of a connection over the loopback link is a watcher's socket: it is in this network namespace,
 * and is looked up as a packet of ours would find it.
 *
 * A connection ends with packets that are nobody's any more: nobody reads what is sent to a socket in TIME_WAIT, and a
 * reset says no more than that its connection is over.
 */
wd_inline int with_watcher(struct __sk_buff *skb, void *list, struct wd_packet *packet, __be16 own_port, __be16 port)
{
        int outward_bound = packet->flow.direction == WD_EGRESS;
        __u32 *own = outward_bound ? packet->flow.source : packet->flow.destination;
        __u32 *remote = outward_bound ? packet->flow.destination : packet->flow.source;
        struct bpf_sock_tuple tuple = {};
        struct bpf_sock *sk;
        int is_so;

        if (packet->flow.family == 4) {
                tuple.ipv4.saddr = own[0];
                tuple.ipv4.daddr = remote[0];
                tuple.ipv4.sport = own_port;
                tuple.ipv4.dport = port;
                sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
        } else {
                __builtin_memcpy(tuple.ipv6.saddr, own, sizeof(tuple.ipv6.saddr));
                __builtin_memcpy(tuple.ipv6.daddr, remote, sizeof(tuple.ipv6.daddr));
                tuple.ipv6.sport = own_port;
                tuple.ipv6.dport = port;
                sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
        }
        if (!sk)
                return packet->resets;
        is_so = sk->state == BPF_TCP_TIME_WAIT || is_watcher(list, sk);
        bpf_sk_release(sk);
        return is_so;
}

/* Who begins a connection is decided by the list: a packet the other way round never opens one. */
wd_inline int allowed(struct __sk_buff *skb, void *list, struct wd_packet *packet)
{
        int outward_bound = packet->flow.direction == WD_EGRESS;
        __be16 remote_port = outward_bound ? packet->flow.port : packet->source_port;
        __be16 own_port = outward_bound ? packet->source_port : packet->flow.port;

        if (!list || !packet->judged)
                return 0;
        if (!packet->opens || outward_bound)
                if (listed(list, packet, WD_OUTWARD, remote_port) || listed(list, packet, WD_OUTWARD, 0))
                        return 1;
        if (packet->opens && outward_bound)
                return 0;
        if (skb->ifindex != WD_LOOPBACK)
                return listed(list, packet, WD_FAR, own_port);
        return listed(list, packet, WD_INWARD, own_port) && with_watcher(skb, list, packet, own_port, remote_port);
}

wd_inline void tell_of_new(struct wd_packet *packet, struct wd_flow *flow)
{
        struct wd_flow_event event = {
                .key = packet->flow,
                .at_ns = flow->first_ns,
                .bytes = flow->bytes,
                .source_port = packet->source_port,
        };

        tally(WD_FLOWS_SEEN);
        if (wd_events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP))
                tally(WD_EVENTS_LOST);
}

wd_inline void record(struct wd_packet *packet, __u32 bytes)
{
        struct wd_flow *flow = wd_flows.lookup(&packet->flow);
        struct wd_flow first = {.packets = 1, .bytes = bytes, .source_port = packet->source_port};

        if (flow)
                return wd_add_to(flow, packet, bytes);
        first.first_ns = first.last_ns = bpf_ktime_get_boot_ns();
        if (wd_flows.insert(&packet->flow, &first) == 0)
                return tell_of_new(packet, &first);
        flow = wd_flows.lookup(&packet->flow); /* another CPU was quicker */
        if (flow)
                wd_add_to(flow, packet, bytes);
        else
                tally(WD_FLOWS_LOST);
}

wd_inline int judge(struct __sk_buff *skb, __u32 direction)
{
        struct wd_packet packet = {};

        wd_read(skb, direction, &packet);
        if (allowed(skb, current_list(), &packet)) {
                count(WD_DIRECTIONS + direction, skb);
                return WD_PASS;
        }
        count(direction, skb);
        record(&packet, skb->len);
        return WD_DROP;
}

wd_inline int guard(struct __sk_buff *skb, __u32 direction)
{
        struct wd_packet packet = {};
        void *list = current_list();

        if (!list)
                return WD_DROP;
        wd_read(skb, direction, &packet);
        return allowed(skb, list, &packet) ? WD_PASS : WD_DROP;
}

int wd_ingress(struct __sk_buff *skb)
{
        return judge(skb, WD_INGRESS);
}

int wd_egress(struct __sk_buff *skb)
{
        return judge(skb, WD_EGRESS);
}

int wd_guard_in(struct __sk_buff *skb)
{
        return guard(skb, WD_INGRESS);
}

int wd_guard_out(struct __sk_buff *skb)
{
        return guard(skb, WD_EGRESS);
}

int wd_shadow_in(struct __sk_buff *skb)
{
        judge(skb, WD_INGRESS);
        return WD_PASS;
}

int wd_shadow_out(struct __sk_buff *skb)
{
        judge(skb, WD_EGRESS);
        return WD_PASS;
}
