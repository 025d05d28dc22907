"""What other tools have on cgroups, links and in nftables: the same during an isolation, and byte for byte after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.systemd import filters
from tests.systemd.mission_bed import Mission, is_whole
from tests.systemd.testbed import Testbed

pytestmark = pytest.mark.systemd

UNIT, SOCKET = "wd-neighbour.service", "wd-neighbour.socket"
SLICE = "/system.slice"
CGROUPS = Path("/sys/fs/cgroup")
SYSTEMDS = "sd_"
"""How systemd names its programs. It loads them anew at every daemon-reload, so that their ids say nothing."""
OURS = "wd_"
STATE = ("/run/watchdog-mesh", "/var/lib/watchdog-mesh", "/sys/fs/bpf/watchdog-mesh")
LINKS = ("lo", "wd-guarded", "wd-plain")
UNIT_TEXT = """[Service]
ExecStart=/bin/sleep infinity
IPAddressDeny=192.0.2.0/24
IPAccounting=yes
DevicePolicy=closed
"""
SOCKET_TEXT = "[Socket]\nListenStream=127.0.0.1:47111\n"
"""A socket that was made elsewhere: by process 1, in its cgroup."""
NFT = f"""table inet neighbour {{
    chain out {{
        type filter hook output priority 0; policy accept;
        socket cgroupv2 level 2 "system.slice/{UNIT}" tcp dport 9 counter drop
    }}
}}
"""
GUARDS = (
    "ip link set lo up",
    "ip link add wd-guarded type veth peer name wd-plain",
    "ip link set wd-guarded up",
    "ip link set wd-plain up",
    "tc qdisc add dev wd-guarded root handle 7: pfifo limit 77",
    "tc qdisc add dev wd-guarded clsact",
    "tc filter add dev wd-guarded egress prio 50 protocol ip u32 match ip dst 192.0.2.9/32 flowid 7:1",
    "tc filter add dev wd-guarded ingress prio 49152 protocol all u32 match u32 0 0 flowid 7:2",
)

LATER = "tc filter add dev wd-plain egress prio 9 protocol ip u32 match u32 0 0 flowid 7:9"


@pytest.fixture
def host(testbed: Testbed) -> Iterator[Mission]:
    """A unit with systemd's own filters, another tool's program above it, and filters on links and in nftables."""
    try:
        for line in GUARDS:
            testbed.run(line.split())
        testbed.unit(SOCKET, SOCKET_TEXT)
        testbed.unit(UNIT, UNIT_TEXT)
        testbed.systemctl("start", SOCKET, UNIT)
        testbed.write("/run/neighbour.nft", NFT)
        testbed.run(["nft", "-f", "/run/neighbour.nft"])
        testbed.call(filters.start_counting, SLICE)
        yield Mission(testbed)
    finally:
        testbed.call(filters.stop_counting, SLICE)
        testbed.run(["nft", "flush", "ruleset"])
        testbed.remove_unit(SOCKET)
        testbed.remove_unit(UNIT)
        testbed.run(["ip", "link", "delete", "wd-guarded"])
        testbed.run(["rm", "-rf", "/run/neighbour.nft", *STATE])


Seen = list[tuple[str, str]]


def on_cgroups() -> Seen:
    """Every program at every hook of every cgroup, ours too: all that the kernel says of it.

    systemd loads its own anew at every reload: of those, the name and the tag, which is the hash of its instructions.
    """
    seen: Seen = []
    for folder in [CGROUPS, *sorted(path for path in CGROUPS.rglob("*") if path.is_dir())]:
        for hook, flags, info in foreign.snapshot(folder):
            said = f"{info.name} {info.tag}" if info.name.startswith((SYSTEMDS, OURS)) else repr(info)
            seen.append((f"{folder} {hook.name} {flags}", said))
    return seen


def of_others(seen: Seen) -> Seen:
    return [(where, said) for where, said in seen if not said.startswith(OURS)]


def on_links(bed: Testbed) -> str:
    """Every qdisc and filter, as tc tells of them."""
    commands = [["tc", "-d", "qdisc", "show"]]
    commands += [["tc", "-d", "filter", "show", "dev", link, hook] for link in LINKS for hook in ("ingress", "egress")]
    return "".join(bed.run(command, check=False).stdout for command in commands)


def everything(bed: Testbed) -> tuple[Seen, str, str]:
    rules = bed.run(["nft", "--stateless", "--handle", "list", "ruleset"]).stdout
    return bed.call(on_cgroups), on_links(bed), rules


def test_what_others_have_is_as_it_was(host: Mission) -> None:
    before = everything(host.bed)
    assert "pfifo" in before[1]
    assert "match c0000209/ffffffff" in before[1]
    isolated = host.document("isolate", "--unit", UNIT, "--reason", "a test")
    assert is_whole(isolated), isolated["gaps"]
    assert "tc" in {layer["layer"] for layer in isolated["layers"] if layer["holds"]}

    cgroups, links, rules = everything(host.bed)
    assert (of_others(cgroups), rules) == (before[0], before[2])
    assert any(said.startswith("wd_cookie_out ") and UNIT not in where for where, said in cgroups), cgroups
    assert set(before[1].splitlines()) <= set(links.splitlines())
    assert links.count("handle 0x57440001") == len(LINKS), links
    host.bed.systemctl("daemon-reload")
    assert of_others(host.bed.call(on_cgroups)) == before[0]

    assert host.document("release", "--unit", UNIT, "--reason", "a test")["exit"] == 0
    assert everything(host.bed) == before


def test_a_neighbour_that_comes_and_goes_meanwhile_is_left_alone(host: Mission) -> None:
    """Its clsact is the one that we made, and stays because its filter is there."""
    host.document("isolate", "--unit", UNIT, "--reason", "a test")
    host.bed.run(LATER.split())
    assert host.document("release", "--unit", UNIT, "--reason", "a test")["exit"] == 0
    said = host.bed.run(["tc", "-d", "filter", "show", "dev", "wd-plain", "egress"]).stdout
    assert "u32" in said
    assert "wd_" not in said
    assert "clsact" not in host.bed.run(["tc", "qdisc", "show", "dev", "lo"]).stdout
