"""docs/json.md describes every document that the commands write: what it promises is there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import Host
from tests.unit.status_views import incident
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.sequence import LAYERS
from watchdog.status.document import build

pytestmark = pytest.mark.kernel

GIVEN = {"shield", *(layer.name for layer in LAYERS)}
"""Keys that are names."""
OPEN = "watchdog-mesh/history/1"
"""Its records have what belongs to their kinds."""
DESCRIPTION = Path(__file__).resolve().parents[2] / "docs/json.md"
PEER = """
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/"
cgroup = "{agent}"
"""
WHY = ("--reason", "to see its document")
COMMANDS = (
    ("isolate", "shield", *WHY, "--shadow"),
    ("release", "shield", *WHY),
    ("isolate", "shield", *WHY, "--dry-run"),
    ("isolate", "shield", *WHY),
    ("verify", "shield"),
    ("status",),
    ("release", "shield", *WHY),
    ("history",),
    ("history", "--verify"),
    ("doctor",),
    ("doctor", "--coverage"),
    ("drill",),
    ("silence", "shield", "--for", "5m", *WHY),
    ("silence", "shield", "--end"),
    ("reconcile",),
    ("config", "check"),
    ("config", "example"),
    ("isolate", "nobody", *WHY),
    ("run", "--self", "nobody"),
)


def described() -> Mapping[str, set[str]]:
    """The keys that the description promises, by schema; what is described together has all of them between them."""
    found: dict[str, set[str]] = {}
    for section in DESCRIPTION.read_text().split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
        keys = {key for row in rows for key in re.findall("`([a-z_]+)`", row)}
        for schema in re.findall("`(watchdog-mesh/[a-z-]+/[0-9]+)`", heading):
            found[schema] = keys
    return found


def keys_in(value: Any) -> Iterator[str]:
    """Every key at any depth that is a name of ours: not a peer's or a layer's."""
    if isinstance(value, list):
        for each in value:
            yield from keys_in(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from [key] if key not in GIVEN else []
            yield from keys_in(each)


def test_the_status_over_http_is_as_described() -> None:
    assert set(build(incident())) == described()["watchdog-mesh/status/1"] | {"schema"}


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


def test_every_document_is_as_described(host: Host, agent: Cgroup, tmp_path: Path) -> None:
    host.configure(PEER.format(agent=agent.path))
    (tmp_path / "bad.toml").write_text("interval = 0\n")
    promised, seen, everything = described(), defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for command in (*COMMANDS, ("status", "--config", tmp_path / "bad.toml")):
        document = host.mesh(*command, "--json").document
        assert document["schema"] in promised, command
        seen[document["schema"]] |= set(document)
        everything[document["schema"]] |= set(keys_in(document))
    together = [
        set().union(*(seen[each] for each, same in promised.items() if same == promised[schema])) for schema in seen
    ]
    missing = {schema: promised[schema] - keys for schema, keys in zip(seen, together, strict=True)}
    assert {schema: keys for schema, keys in missing.items() if keys} == {}
    said = set(re.findall("`([a-z_]+)`", DESCRIPTION.read_text()))
    unsaid = {schema: keys - said for schema, keys in everything.items() if keys - said}
    assert set(unsaid) <= {OPEN}, unsaid
    assert set(promised) - set(seen) == {"watchdog-mesh/status/1", "watchdog-mesh/notify-test/1"}
