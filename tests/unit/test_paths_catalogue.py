"""The catalogue of paths and what is said of each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.paths import catalogue
from watchdog.paths.coverage import disagreement, judge
from watchdog.paths.facts import parse_protocols
from watchdog.paths.play import Tried
from watchdog.paths.probe import Outcome
from watchdog.paths.probe import judge as judge_probe
from watchdog.paths.words import Coverage, Facts, Holding, Layer, Made, Need, needs_met, parse_layers

COVERED, NOT_COVERED, NOT_APPLICABLE = Coverage.COVERED, Coverage.NOT_COVERED, Coverage.NOT_APPLICABLE
P, K, S, T, D, H, L, F = (
    Layer.PACKETS,
    Layer.COOKIES,
    Layer.OPTIONS,
    Layer.TC,
    Layer.DESCRIPTORS,
    Layer.HOST_END,
    Layer.LSM,
    Layer.FREEZE,
)

WORST = Facts(
    may=frozenset(Need),
    holds=frozenset(Holding),
    abroad=frozenset(Holding),
    traces=True,
    spliced=True,
    own_netns=True,
    vsock=True,
    netlink=True,
    others=frozenset({"TIPC"}),
)
NO_RING = replace(WORST, holds=frozenset(Holding) - {Holding.RING}, spliced=False)
AT_HOME = replace(NO_RING, may=frozenset(Need) - {Need.SYS_ADMIN}, abroad=frozenset())
HARMLESS_USER = Facts(
    may=frozenset(),
    given=frozenset(),
    holds=frozenset(),
    traces=False,
    spliced=False,
    own_netns=False,
    vsock=False,
    netlink=False,
    others=frozenset(),
)

ORDINARY_USER = replace(HARMLESS_USER, given=frozenset(Need))


def holding(*holds: Holding) -> Facts:
    return Facts(may=frozenset(), holds=frozenset(holds))


WORKS_ON = ", and io_uring carries out what it was asked for, frozen or not"

SPLICED = ", as a program of another tool (sk_msg, sk_skb) may pass its data from socket to socket"


def said(layers: set[Layer], facts: Facts) -> dict[str, Coverage]:
    return {each.path: each.coverage for each in catalogue.verdicts(layers, facts)}


def covered(layers: set[Layer], facts: Facts) -> set[str]:
    return {path for path, coverage in said(layers, facts).items() if coverage is COVERED}


layer_sets = st.sets(st.sampled_from(list(Layer)))


@pytest.mark.parametrize(
    ("path", "layers", "facts", "coverage", "why"),
    [
        ("E1a", {P}, NO_RING, COVERED, "by packets"),
        ("E1a", set(), NO_RING, NOT_COVERED, "only packets or host_end or lsm would stop it"),
        ("E1e", {P}, HARMLESS_USER, COVERED, "by packets"),
        ("E1e", {P, H}, replace(HARMLESS_USER, spliced=True), NOT_COVERED, f"only lsm would stop it{SPLICED}"),
        ("E1e", {P, L}, replace(HARMLESS_USER, spliced=True), COVERED, "by lsm"),
        ("E2c", {P}, replace(HARMLESS_USER, spliced=True), COVERED, "by packets"),
        ("E9a", {P, K}, WORST, NOT_COVERED, f"only lsm would stop it{SPLICED}"),
        ("E1a", {F}, NO_RING, NOT_COVERED, "only packets or host_end or lsm would stop it"),
        ("E2a", {F}, NO_RING, COVERED, "by freeze"),
        ("E2a", {P, F}, WORST, COVERED, "by packets"),
        ("E5a", {P}, NO_RING, NOT_COVERED, "only tc or lsm or freeze would stop it"),
        ("E5a", {P}, WORST, NOT_COVERED, "only tc or lsm would stop it"),
        ("E5a", {P}, Facts(), NOT_COVERED, "only tc or lsm would stop it"),
        ("E5a", {P}, AT_HOME, NOT_COVERED, "only tc or host_end or lsm or freeze would stop it"),
        ("E5a", {P}, HARMLESS_USER, NOT_APPLICABLE, "it lacks CAP_NET_RAW, and can be given none"),
        ("E5a", {P}, ORDINARY_USER, NOT_APPLICABLE, "it lacks CAP_NET_RAW, unless a setuid program gives it that"),
        (
            "E5a",
            {P},
            Facts(may=frozenset()),
            NOT_APPLICABLE,
            "it lacks CAP_NET_RAW, unless a setuid program gives it that",
        ),
        ("E5b", {P}, HARMLESS_USER, NOT_APPLICABLE, "it has no packet socket open"),
        ("E5b", {P, T}, Facts(may=frozenset()), NOT_COVERED, "only lsm would stop it"),
        ("E5b", {P, T}, WORST, COVERED, "by tc"),
        ("E5b", {P}, AT_HOME, NOT_COVERED, "only tc or host_end or lsm or freeze would stop it"),
        ("E5b", {P}, Facts(may=frozenset(), holds=frozenset({Holding.PACKET})), NOT_COVERED, None),
        ("E6b", {T}, AT_HOME, NOT_COVERED, "only host_end or lsm or freeze or descriptors and tc would stop it"),
        ("E6b", {T, D}, WORST, COVERED, "by descriptors and tc"),
        ("E8b", {P, H}, AT_HOME, COVERED, "by host_end"),
        ("E8b", {P, H}, NO_RING, NOT_COVERED, "only lsm or freeze would stop it"),
        ("E9c", {P, K}, WORST, COVERED, "by cookies"),
        ("E9c", {P, H}, AT_HOME, COVERED, "by host_end"),
        ("E9c", {P, H}, NO_RING, NOT_COVERED, "only cookies or lsm or freeze would stop it"),
        ("E9e", {P, K, S}, AT_HOME, NOT_COVERED, "only host_end or lsm or freeze would stop it"),
        ("E9e", {P, K, S}, HARMLESS_USER, NOT_APPLICABLE, "it has no socket made in another cgroup open"),
        ("E10b", {P, H}, AT_HOME, NOT_COVERED, "only lsm or freeze would stop it"),
        ("E10b", {P, K}, NO_RING, NOT_COVERED, "only lsm or freeze would stop it before the next scan finds it"),
        ("E10b", {P, K}, holding(Holding.LISTENING), NOT_COVERED, None),
        (
            "E10b",
            {P, K},
            HARMLESS_USER,
            NOT_APPLICABLE,
            "it has no unix connection to a process outside and no listening unix socket open, "
            "and may trace no process outside",
        ),
        ("E10b", {P, K}, replace(HARMLESS_USER, traces=True), NOT_COVERED, None),
        ("E10b", {P, K, L}, replace(HARMLESS_USER, traces=True), COVERED, "by lsm"),
        ("E10d", {P, K}, replace(HARMLESS_USER, traces=True), NOT_APPLICABLE, None),
        ("E10d", {P}, holding(Holding.LISTENING), COVERED, "by packets"),
        ("E16a", {P}, holding(Holding.LISTENING), NOT_APPLICABLE, None),
        ("E16f", {P}, holding(Holding.LISTENING), NOT_COVERED, "only lsm or freeze would stop it"),
        ("E16f", {P}, holding(Holding.UNIX), NOT_APPLICABLE, "it has no listening unix socket open"),
        ("E16a", {P, F}, holding(Holding.UNIX), COVERED, "by freeze"),
        ("E16a", {P, F}, holding(Holding.UNIX, Holding.RING), NOT_COVERED, f"only lsm would stop it{WORKS_ON}"),
        ("E16a", {P, L, F}, holding(Holding.UNIX, Holding.RING), COVERED, "by lsm"),
        ("E16a", {P, F}, holding(Holding.RING), NOT_APPLICABLE, None),
        ("E12e", {P, H}, NO_RING, NOT_COVERED, "only freeze would stop it"),
        ("E12e", {P, H, F}, WORST, NOT_COVERED, f"nothing would stop it{WORKS_ON}"),
        ("E12a", {P}, Facts(vsock=False), NOT_APPLICABLE, "this host has no vsock transport"),
        ("E12a", {P}, Facts(vsock=None), NOT_COVERED, None),
        ("E12b", {P}, WORST, NOT_APPLICABLE, None),
        ("E14b", {P, T}, AT_HOME, NOT_COVERED, "only host_end or lsm or freeze would stop it"),
        ("E14b", {P, T, H}, AT_HOME, COVERED, "by host_end"),
        ("E14b", {P, T, H}, NO_RING, NOT_COVERED, "only lsm or freeze would stop it"),
        ("E14b", {P, T}, replace(AT_HOME, may=frozenset({Need.NET_RAW})), NOT_APPLICABLE, None),
        ("E12c", {P}, NO_RING, NOT_COVERED, "only lsm or freeze would stop it"),
        (
            "E12c",
            {P},
            HARMLESS_USER,
            NOT_APPLICABLE,
            "no process has a netlink socket there that takes messages of it",
        ),
        ("E12h", {P}, NO_RING, NOT_COVERED, "only lsm or freeze would stop it"),
        ("E12h", {P}, HARMLESS_USER, NOT_APPLICABLE, "this kernel has loaded none of another family"),
        ("E12h", {L}, WORST, COVERED, "by lsm"),
        ("E15b", {P}, WORST, NOT_COVERED, "only host_end would stop it"),
        ("E15b", {P}, Facts(own_netns=False), NOT_APPLICABLE, None),
        ("E15b", {P, H}, WORST, COVERED, "by host_end"),
        ("E15e", {P}, HARMLESS_USER, NOT_COVERED, "only options or host_end or lsm or freeze would stop it"),
        ("E15f", {P, S}, HARMLESS_USER, COVERED, "by options"),
    ],
)
def test_verdicts(path: str, layers: set[Layer], facts: Facts, coverage: Coverage, why: str | None) -> None:
    said = catalogue.verdict(catalogue.find(path), layers, facts)
    assert said.coverage is coverage
    assert why is None or said.why == why


@given(layers=layer_sets, more=layer_sets)
def test_another_layer_never_uncovers_a_path(layers: set[Layer], more: set[Layer]) -> None:
    before = {v.path for v in catalogue.verdicts(layers, WORST) if v.coverage is COVERED}
    after = {v.path for v in catalogue.verdicts(layers | more, WORST) if v.coverage is COVERED}
    assert before <= after


@given(layers=layer_sets)
def test_what_is_not_known_counts_as_the_worst(layers: set[Layer]) -> None:
    """And more: a packet socket that nobody sees is one that no filter knows."""
    assert said(layers - {T}, Facts()) == said(layers - {T}, WORST)
    assert covered(layers, Facts()) <= covered(layers, WORST)


def test_nothing_is_covered_by_nothing() -> None:
    assert COVERED not in {v.coverage for v in catalogue.verdicts(set(), WORST)}


def test_ids_are_unique_and_every_path_can_be_stopped() -> None:
    ids = [path.id for path in catalogue.CATALOGUE]
    assert len(ids) == len(set(ids))
    assert all(path.stopped_by for path in catalogue.CATALOGUE)


def test_freezing_is_not_claimed_where_the_kernel_goes_on() -> None:
    frozen = {path.id for path in catalogue.CATALOGUE if frozenset({F}) in path.stopped_by}
    going_on = {path.id for path in catalogue.CATALOGUE if path.made is Made.KERNEL}
    assert not frozen & (going_on | {"E1a", "E1b", "E1d", "E9b", "E9d", "E15a"})


def test_layers_of_an_alternative_are_needed_together() -> None:
    assert parse_layers("packets descriptors+tc") == {frozenset({P}), frozenset({D, T})}


@pytest.mark.parametrize(
    ("capabilities", "needs"),
    [
        (0, set()),
        (1 << 13, {Need.NET_RAW}),
        (1 << 1 | 1 << 12, {Need.NET_ADMIN}),
        ((1 << 41) - 1, set(Need) - {Need.CGROUP_WRITE}),
    ],
)
def test_needs_are_read_from_capabilities(capabilities: int, needs: set[Need]) -> None:
    assert needs_met(capabilities) == needs


@pytest.mark.parametrize(
    ("names", "others"),
    [
        ("TCP TCPv6 UDP UDPv6 UDP-Lite UDPLITEv6 RAW RAWv6 PING PINGv6 MPTCP MPTCPv6 SCTP SCTPv6 L2TP/IPv6", set()),
        ("UNIX UNIX-STREAM PACKET XDP AF_VSOCK NETLINK ALG KEY", set()),
        ("TCP TIPC CAN_RAW CAN_BCM UNIX", {"TIPC", "CAN_RAW", "CAN_BCM"}),
        ("", set()),
    ],
)
def test_which_protocols_are_of_another_family(names: str, others: set[str]) -> None:
    lines = [f"{name:10} 1024     12      -1   NI       0   no   kernel      n  n" for name in names.split()]
    assert parse_protocols("\n".join(["protocol  size sockets  memory press maxhdr", *lines])) == others


OK, EPERM, SILENT = Tried(True, "ok"), Tried(False, "EPERM"), Tried(False, "timeout")


@pytest.mark.parametrize(
    ("before", "during", "after", "said", "fits"),
    [
        (OK, SILENT, OK, COVERED, True),
        (OK, OK, OK, COVERED, False),
        (OK, OK, OK, NOT_COVERED, True),
        (OK, EPERM, OK, NOT_COVERED, False),
        (OK, EPERM, SILENT, COVERED, False),
        (SILENT, SILENT, SILENT, COVERED, False),
        (OK, Tried(False, "no answer"), OK, NOT_COVERED, True),
        (OK, Tried(False, "no answer"), SILENT, NOT_COVERED, False),
        (EPERM, EPERM, EPERM, NOT_APPLICABLE, True),
        (OK, OK, OK, NOT_APPLICABLE, True),
    ],
)
def test_what_is_said_must_be_what_is_seen(
    before: Tried, during: Tried, after: Tried, said: Coverage, fits: bool
) -> None:
    assert (disagreement(before, during, after, said) == "") is fits


def test_what_a_kernel_lacks_does_not_apply() -> None:
    said = judge(catalogue.find("E12a"), Tried(False, "EAFNOSUPPORT"), frozenset({P}), WORST)
    assert said.coverage is NOT_APPLICABLE
    assert judge(catalogue.find("E12a"), OK, frozenset({P}), WORST).coverage is NOT_COVERED


@pytest.mark.parametrize(
    ("inside", "outside", "outcome"),
    [
        (OK, OK, Outcome.GOT_THROUGH),
        (OK, SILENT, Outcome.GOT_THROUGH),
        (SILENT, OK, Outcome.STOPPED),
        (EPERM, OK, Outcome.STOPPED),
        (EPERM, EPERM, Outcome.UNTRIED),
        (SILENT, SILENT, Outcome.UNTRIED),
        (Tried(False, "no answer"), OK, Outcome.UNTRIED),
    ],
)
def test_silence_means_something_only_where_others_are_heard(inside: Tried, outside: Tried, outcome: Outcome) -> None:
    assert judge_probe(inside, outside)[0] is outcome
