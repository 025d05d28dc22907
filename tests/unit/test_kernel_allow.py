"""Compiling an allow-list: the trie knows only the longest prefix, the operator means all that fit."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from watchdog.kernel.allow import FOREVER_NS, KEY_BYTES, Rule, Way, compiled, without_watchers

TCP = 6


def rules_in(version: int) -> st.SearchStrategy[Rule]:
    """Rules in a corner of the address space, so that they hold one another."""
    bits = 32 if version == 4 else 128
    base = int(ipaddress.ip_address("192.0.2.0" if version == 4 else "2001:db8::"))

    def made(offset: int, length: int, port: int, until_ns: int) -> Rule:
        network = ipaddress.ip_network((base + offset, bits - length), strict=False)
        return Rule(network, TCP, port, until_ns=until_ns)

    return st.builds(made, st.integers(0, 255), st.integers(0, 8), st.sampled_from([0, 443]), st.integers(0, 5))


def answer(keys: dict[bytes, int], probe: bytes) -> int | None:
    """What the kernel's trie answers: the value of the longest key that fits."""
    number = int.from_bytes(probe[4:], "big")
    best: tuple[int, int] | None = None
    for key, value in keys.items():
        bits = int.from_bytes(key[:4], "little")
        shift = (KEY_BYTES - 4) * 8 - bits
        if int.from_bytes(key[4:], "big") >> shift == number >> shift and (best is None or bits > best[0]):
            best = (bits, value)
    return None if best is None else best[1]


@given(
    st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(st.lists(rules_in(v), max_size=12), st.just(v))),
    st.integers(0, 255),
    st.sampled_from([0, 443]),
)
def test_the_longest_prefix_has_what_all_that_fit_have(
    rules_and_version: tuple[list[Rule], int], offset: int, port: int
) -> None:
    rules, version = rules_and_version
    address = ipaddress.ip_address("192.0.2.0" if version == 4 else "2001:db8::") + offset
    fitting = [rule.until_ns for rule in rules if rule.port == port and address in rule.network]
    wanted = None if not fitting else FOREVER_NS if FOREVER_NS in fitting else max(fitting)
    (probe,) = compiled([Rule(ipaddress.ip_network(address), TCP, port)])
    assert answer(compiled(rules), probe) == wanted


def test_a_key_byte_by_byte() -> None:
    (four,) = compiled([Rule(ipaddress.ip_network("192.0.2.0/24"), TCP, 443)])
    assert four == bytes([56, 0, 0, 0, 0x04, 6, 1, 0xBB, 192, 0, 2, 0]) + bytes(12)
    (six,) = compiled([Rule(ipaddress.ip_network("2001:db8::/32"), 58, way=Way.INWARD)])
    assert six == bytes([64, 0, 0, 0, 0x16, 58, 0, 0, 0x20, 0x01, 0x0D, 0xB8]) + bytes(12)


def test_watchers_are_keys_of_their_own_and_no_part_of_what_is_meant() -> None:
    """As bpf/cgroup_skb.c asks for one: the id of its cgroup in the machine's byte order, compared whole."""
    rules = [Rule(ipaddress.ip_network("127.0.0.1"), TCP, 9103, Way.INWARD)]
    found = compiled(rules, [0x1122334455667788])
    key = struct.pack("=IBBHQQ", 160, 0x20, 0, 0, 0x1122334455667788, 0)
    assert found == compiled(rules) | {key: FOREVER_NS}
    assert len(key) == KEY_BYTES
    assert without_watchers(found) == compiled(rules)
