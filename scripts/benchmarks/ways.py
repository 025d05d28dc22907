"""Three ways to cut a unit off the network, each as the command an operator would type, and how each is undone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
UNIT = "wd-bench.service"
UNIT_CGROUP = Path("/sys/fs/cgroup/system.slice") / UNIT
REASON = ("--reason", "benchmark")
CONFIG = Path("/tmp/wd-bench.toml")  # noqa: S108 - inside the test bed, whose /tmp is its own
CONFIG_TEXT = f"""[[peer]]
name = "bench"
endpoint = "http://127.0.0.1:9/healthz"
unit = "{UNIT}"
"""
COMMAND_LIMIT_S = 120.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "WATCHDOG_MESH_CONFIG": str(CONFIG),
}
PARTIAL = 4
"""Cut off, with a path that is not covered: what an agent that is root gets."""

RULES = Path("/tmp/wd-bench.nft")  # noqa: S108 - inside the test bed, whose /tmp is its own
RULES_TEXT = """table inet wd_bench {{
    chain out {{ type filter hook output priority 0; socket cgroupv2 level {level} "{path}" counter drop; }}
    chain in {{ type filter hook input priority 0; socket cgroupv2 level {level} "{path}" counter drop; }}
}}
"""

MESH, SYSTEMD, NFT = "watchdog-mesh isolate", "IPAddressDeny=any", "nft socket cgroupv2"


@dataclass(frozen=True)
class Way:
    """One of them."""

    name: str
    cut: Sequence[str]
    undo: Sequence[str]

    def start(self) -> subprocess.Popen[str]:
        """Begin to cut off."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.cut, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)

    def finish(self, process: subprocess.Popen[str]) -> int:
        """Wait until the command has ended; when, on CLOCK_MONOTONIC in ns."""
        said = process.communicate(timeout=COMMAND_LIMIT_S)
        ended_ns = time.monotonic_ns()
        assert process.returncode in (0, PARTIAL), f"{self.name}: {said}"
        return ended_ns

    def release(self) -> None:
        """Undo it."""
        done = subprocess.run(
            self.undo, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S, env=ENVIRONMENT
        )
        assert done.returncode == 0, f"{self.name}: {done}"


def verify() -> None:
    """Ask whether the unit is isolated, as an operator would."""
    done = subprocess.run(
        [*_command(), "verify", "--unit", UNIT],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_LIMIT_S,
        env=ENVIRONMENT,
    )
    assert done.returncode in (0, PARTIAL), done


def ways() -> list[Way]:
    """Those that can be tried here."""
    mesh = _command()
    found = [
        Way(MESH, [*mesh, "isolate", "--unit", UNIT, *REASON], [*mesh, "release", "--unit", UNIT, *REASON]),
        Way(SYSTEMD, _set_property("any"), _set_property("")),
    ]
    if shutil.which("nft") and _write_rules():
        found.append(Way(NFT, ["nft", "-f", str(RULES)], ["nft", "delete", "table", "inet", "wd_bench"]))
    return found


def _command() -> list[str]:
    """As installed beside this Python; a test may run on one that it is not installed for."""
    installed = Path(sys.executable).with_name("watchdog-mesh")
    if installed.exists():
        return [str(installed)]
    return ["env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "watchdog"]


def _set_property(value: str) -> list[str]:
    return ["systemctl", "set-property", "--runtime", UNIT, f"IPAddressDeny={value}"]


def _write_rules() -> bool:
    """The level counts from the root of the cgroup namespace, or on older kernels from the host's: what loads is it."""
    path = str(UNIT_CGROUP.relative_to("/sys/fs/cgroup"))
    level = len(Path(path).parts)
    RULES.write_text(RULES_TEXT.format(level=level, path=path))
    return subprocess.run(["nft", "--check", "-f", str(RULES)], check=False, env=ENVIRONMENT).returncode == 0
