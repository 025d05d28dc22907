"""scripts/install as the README has it, on a systemd of its own: put in place, run again, in use, and taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from tests.systemd.mission_bed import PEER
from tests.systemd.testbed import REPOSITORY, Testbed

pytestmark = pytest.mark.systemd

INSTALL = str(REPOSITORY / "scripts" / "install")
WHEELS = Path("/var/cache/wheels")
FROM_THEM = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
INSTALL_LIMIT_S = 240.0
COMMAND = "/usr/local/bin/watchdog-mesh"
CONFIG = "/etc/watchdog-mesh/config.toml"
UNIT_FILES = ("/etc/systemd/system/watchdog-mesh@.service", "/etc/systemd/system/watchdog-mesh-restore.service")
AGENTS = ("immune", "sidecar", "shield")
SETTINGS = 'interval = "1h" # nobody answers here\n'
REFUSED = 3


def repack(package: Distribution, folder: Path) -> None:
    """A wheel of what is installed: its files, named after what its own WHEEL says."""
    tag = next(line for line in (package.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: "))
    name = package.metadata["Name"].replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{package.version}-{tag.removeprefix('Tag: ')}.whl", "w") as wheel:
        for file in package.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":  # commands are made anew from its entry points
                wheel.write(file.locate(), str(file))


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A systemd that is nobody else's, without a network: pip finds there what this environment was made from."""
    seed = tmp_path_factory.mktemp("seed")
    folder = seed / WHEELS.relative_to("/")
    folder.mkdir(parents=True)
    for package in distributions(path=[sysconfig.get_path("platlib")]):
        if package.metadata["Name"] != "watchdog-mesh":
            repack(package, folder)
    seed.chmod(0o755)  # the mode of / there
    with Testbed(seed) as running:
        shutil.rmtree(seed)
        yield running


def install(bed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    return bed.run([INSTALL, *words], INSTALL_LIMIT_S, check=False, env=FROM_THEM)


def mesh(bed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    return bed.run([COMMAND, *words], 90.0, check=False)


def test_the_first_five_minutes_and_the_last(bed: Testbed) -> None:
    first = install(bed)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Ready in" in first.stdout, "it shows what the set-up does"
    assert all(f"Installed {file}\n" in first.stdout for file in UNIT_FILES)
    assert f"Installed {CONFIG}, an example\n" in first.stdout
    assert bed.systemctl("is-enabled", "watchdog-mesh-restore.service").stdout.strip() == "enabled"
    assert bed.run(["stat", "-c", "%a %U", CONFIG]).stdout.split() == ["600", "root"]
    example = mesh(bed, "config", "check").stdout.splitlines()
    wrong = {f"peer '{name}'.unit: there is no unit '{name}.service' on this host" for name in AGENTS}
    assert {line.removeprefix(f"{CONFIG}: ").partition(";")[0] for line in example} == wrong, "else it is a good one"

    peers = [PEER.format(name=name, port=9101 + at, status=9471 + at) for at, name in enumerate(AGENTS)]
    bed.write(CONFIG, SETTINGS + "".join(peers))
    for name in AGENTS:
        bed.unit(f"{name}.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    bed.systemctl("start", *AGENTS)
    assert mesh(bed, "config", "check").returncode == 0

    bed.run(["ip", "link", "set", "lo", "up"])
    bed.systemctl("enable", "--now", *(f"watchdog-mesh@{name}" for name in AGENTS), timeout_s=120.0)
    told = json.loads(mesh(bed, "status", "--json").stdout)
    assert {peer["name"] for peer in told["peers"]} == set(AGENTS)

    again = install(bed)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Installed " not in again.stdout, "the second time finds everything there"
    assert f"Kept {CONFIG}\n" in again.stdout
    assert all(f"watchdog-mesh@{name}.service" in again.stdout for name in AGENTS), "who still runs what was there"
    assert bed.read(CONFIG).startswith(SETTINGS)

    done = mesh(bed, "isolate", "shield", "--reason", "test")
    assert "shield is cut off" in done.stdout, done.stdout + done.stderr
    refused = install(bed, "--uninstall")
    assert refused.returncode == REFUSED, refused.stdout + refused.stderr
    assert "/system.slice/shield.service" in refused.stderr
    assert bed.systemctl("is-active", "watchdog-mesh@shield.service").stdout.strip() == "active"

    assert mesh(bed, "release", "shield", "--reason", "test is over").returncode == 0

    assert mesh(bed, "isolate", "shield", "--reason", "test", "--shadow").returncode == 0
    refused = install(bed, "--uninstall")
    assert refused.returncode == REFUSED, refused.stdout + refused.stderr
    problem, cgroup, hint = refused.stderr.splitlines()
    assert problem.startswith("install: an agent has a shadow")
    assert cgroup.endswith("/system.slice/shield.service")
    assert "watchdog-mesh release --cgroup PATH --reason uninstall" in hint
    assert bed.systemctl("is-active", "watchdog-mesh@shield.service").stdout.strip() == "active"

    assert mesh(bed, "release", "--cgroup", cgroup, "--reason", "uninstall").returncode == 0
    removed = install(bed, "--uninstall")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    for path in (*UNIT_FILES, COMMAND, "/opt/watchdog-mesh", "/run/watchdog-mesh", "/sys/fs/bpf/watchdog-mesh"):
        assert not os.path.lexists(bed.root / path.lstrip("/")), path
    assert bed.read(CONFIG).startswith(SETTINGS), "what a person wrote is kept"
    assert (bed.root / "var/lib/watchdog-mesh/journal.db").exists(), "and what happened"
    left = bed.systemctl("list-units", "--all", "--plain", "--no-legend", "watchdog-mesh*").stdout
    assert left == "", left
