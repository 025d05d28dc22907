/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a packet says of itself, and whether that can be believed; how it is counted: no maps, no verdicts.
 *
 * Judged is only what says plainly whom it is for: IPv4 without options (a source route hides the destination) that
 * is no fragment (only the first has ports), IPv6 without extension headers (they can redirect, split or hide what
 * follows), and in it TCP, UDP or ICMP with its header whole, of a socket of that kind: a raw socket can send a packet
 * to another neighbour than the one its header names. Of anything else as much is kept as could be read, for the
 * record. Packets that were reassembled reach the ingress hook whole; those to be split leave egress whole.
 */
#ifndef WD_PACKET_H
#define WD_PACKET_H

#include "wd.h"

#define wd_inline static inline __attribute__((always_inline))

enum wd_protocol {
        WD_ICMP = 1,
        WD_TCP = 6,
        WD_UDP = 17,
        WD_ICMPV6 = 58,
};

enum wd_socket_type { /* include/linux/net.h; no UAPI header has them */
        WD_STREAM = 1,
        WD_DATAGRAM = 2,
};

struct wd_packet {
        struct wd_flow_key flow;
        __be16 source_port;
        __u8 judged;
        __u8 opens;  /* TCP that begins a connection: SYN without ACK */
        __u8 resets; /* TCP that ends one at once: RST */
};

struct wd_ipv4 {
        __u8 version_and_words, service;
        __be16 total_bytes, id, fragment;
        __u8 hops, protocol;
        __be16 checksum;
        __u32 source, destination;
};
_Static_assert(sizeof(struct wd_ipv4) == 20, "RFC 791");
#define WD_IPV4_PLAIN 0x45 /* version 4, five words: no options */
#define WD_IPV4_FRAGMENT 0x3fff /* more of them, or an offset */

struct wd_ipv6 {
        __u8 version_and_class, rest_and_label[3];
        __be16 payload_bytes;
        __u8 next_header, hops;
        __u32 source[4], destination[4];
};
_Static_assert(sizeof(struct wd_ipv6) == 40, "RFC 8200");

struct wd_tcp {
        __be16 source_port, port;
        __be32 sequence, acknowledged;
        __u8 words, flags;
        __be16 window, checksum, urgent;
};
_Static_assert(sizeof(struct wd_tcp) == 20, "RFC 9293");
#define WD_TCP_SYN 0x02
#define WD_TCP_RST 0x04
#define WD_TCP_ACK 0x10

struct wd_udp {
        __be16 source_port, port, size_bytes, checksum;
};
_Static_assert(sizeof(struct wd_udp) == 8, "RFC 768");

#define WD_ICMP_BYTES 8

wd_inline void wd_read_tcp(struct __sk_buff *skb, __u32 at, struct wd_packet *packet)
{
        struct wd_tcp tcp;

        if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
                return;
        packet->flow.port = tcp.port;
        packet->source_port = tcp.source_port;
        packet->opens = (tcp.flags & (WD_TCP_SYN | WD_TCP_ACK)) == WD_TCP_SYN;
        packet->resets = (tcp.flags & WD_TCP_RST) != 0;
        packet->judged = 1;
}

wd_inline void wd_read_udp(struct __sk_buff *skb, __u32 at, struct wd_packet *packet)
{
        struct wd_udp udp;

        if (bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)))
                return;
        packet->flow.port = udp.port;
        packet->source_port = udp.source_port;
        packet->judged = 1;
}

wd_inline void wd_read_icmp(struct __sk_buff *skb, __u32 at, struct wd_packet *packet)
{
        __u8 icmp[WD_ICMP_BYTES];

        packet->judged = bpf_skb_load_bytes(skb, at, icmp, sizeof(icmp)) == 0;
}

/* Where what it carries begins; 0 where that cannot be judged. */
wd_inline __u32 wd_read_ipv4(struct __sk_buff *skb, struct wd_packet *packet)
{
        struct wd_ipv4 ip;

        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
                return 0;
        packet->flow.family = 4;
        packet->flow.protocol = ip.protocol;
        packet->flow.source[0] = ip.source;
        packet->flow.destination[0] = ip.destination;
        if (ip.version_and_words != WD_IPV4_PLAIN || ip.fragment & bpf_htons(WD_IPV4_FRAGMENT))
                return 0;
        return sizeof(ip);
}

wd_inline __u32 wd_read_ipv6(struct __sk_buff *skb, struct wd_packet *packet)
{
        struct wd_ipv6 ip;

        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
                return 0;
        packet->flow.family = 6;
        packet->flow.protocol = ip.next_header;
        __builtin_memcpy(packet->flow.source, ip.source, sizeof(ip.source));
        __builtin_memcpy(packet->flow.destination, ip.destination, sizeof(ip.destination));
        return sizeof(ip);
}

/* Raw sockets pass for ICMP, since nearly every ping has one. */
wd_inline int wd_is_of_its_kind(struct __sk_buff *skb, struct wd_packet *packet)
{
        struct bpf_sock *sk = skb->sk;

        if (sk)
                sk = bpf_sk_fullsock(sk);
        if (!sk || sk->protocol != packet->flow.protocol)
                return 0;
        if (packet->flow.protocol == WD_TCP)
                return sk->type == WD_STREAM;
        return packet->flow.protocol != WD_UDP || sk->type == WD_DATAGRAM;
}

wd_inline void wd_read(struct __sk_buff *skb, __u32 direction, struct wd_packet *packet)
{
        __u8 version = 0;
        __u32 at = 0;

        packet->flow.direction = direction;
        bpf_skb_load_bytes(skb, 0, &version, sizeof(version));
        version >>= 4;
        if (version == 4)
                at = wd_read_ipv4(skb, packet);
        else if (version == 6)
                at = wd_read_ipv6(skb, packet);
        if (!at)
                return;
        if (packet->flow.protocol == WD_TCP)
                wd_read_tcp(skb, at, packet);
        else if (packet->flow.protocol == WD_UDP)
                wd_read_udp(skb, at, packet);
        else if (packet->flow.protocol == (version == 4 ? WD_ICMP : WD_ICMPV6))
                wd_read_icmp(skb, at, packet);
        if (packet->judged)
                packet->judged = wd_is_of_its_kind(skb, packet);
}

/* Counters are atomic although per CPU: egress runs in the sender's context and a softirq may send on top of it. */
wd_inline void wd_add_traffic(struct wd_traffic *traffic, __u32 bytes)
{
        __sync_fetch_and_add(&traffic->packets, 1);
        __sync_fetch_and_add(&traffic->bytes, bytes);
}

wd_inline void wd_add_to(struct wd_flow *flow, struct wd_packet *packet, __u32 bytes)
{
        flow->last_ns = bpf_ktime_get_boot_ns();
        flow->source_port = packet->source_port;
        __sync_fetch_and_add(&flow->packets, 1);
        __sync_fetch_and_add(&flow->bytes, bytes);
}

#endif
