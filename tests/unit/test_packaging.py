"""The project works the same from a wheel, away from the checkout, and from a checkout that is not installed."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import watchdog

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND_LIMIT_S = 120.0
BUILD_ONE_SLOT = """
import sys
from pathlib import Path
from watchdog.kernel.builder import ensure_slots
(slot,) = ensure_slots(Path(sys.argv[1]), Path(sys.argv[2]), 1)
print(*sorted(slot.programs))
"""
PRINT_SOURCE_DIR = "from watchdog.kernel.sources import source_dir; print(source_dir())"


def run(*command: str | Path, cwd: Path) -> str:
    """What the command printed; its failure shows all it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def make_environment(folder: Path) -> Path:
    """A virtual environment that has what we depend on, and not us."""
    venv.create(folder, system_site_packages=True, symlinks=True)
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "installed_base": "/usr"})
    # A path in a .pth file: its own .pth files, such as our editable install's, do not count.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves files in its source, and takes in what earlier ones left."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    keep_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(CHECKOUT, source, symlinks=True, ignore=keep_out)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        folder,
        source,
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder bin/ of an environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("installed")
    python = make_environment(folder)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that sees our dependencies but nothing of ours."""
    return make_environment(tmp_path_factory.mktemp("bare"))


def files_below(folder: str, *patterns: str) -> set[str]:
    found = (path for pattern in patterns for path in (CHECKOUT / folder).rglob(pattern))
    return {str(path.relative_to(CHECKOUT)) for path in found if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_holds_every_module_source_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"watchdog/{name}" for name in files_below("bpf", "*.c", "*.h", "LICENSE*")}
    wanted = files_below("watchdog", "*") | sources
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == wanted
    assert any(".dist-info/" in name and name.endswith("/LICENSE") for name in names)


def test_the_installed_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    assert watchdog.__version__ in run(installed / "watchdog-mesh", "--version", cwd=tmp_path)
    assert watchdog.__version__ in run(installed / "python", "-m", "watchdog", "--version", cwd=tmp_path)


def test_an_installation_finds_its_own_sources(installed: Path, tmp_path: Path) -> None:
    found = Path(run(installed / "python", "-c", PRINT_SOURCE_DIR, cwd=tmp_path))
    assert found.is_relative_to(installed.parent)
    assert list(found.glob("*.c"))


def test_a_checkout_runs_without_installation(bare_python: Path) -> None:
    assert watchdog.__version__ in run(bare_python, "-m", "watchdog", "--version", cwd=CHECKOUT)
    assert Path(run(bare_python, "-c", PRINT_SOURCE_DIR, cwd=CHECKOUT)).is_relative_to(CHECKOUT)


@pytest.mark.kernel
def test_an_installation_compiles_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("WATCHDOG_KERNEL_TESTS") == "1" else pytest.skip)("needs root")
    # The pins are on a bpffs that goes with the mount namespace.
    alone = ("unshare", "--mount", "--propagation", "private")
    built = run(*alone, installed / "python", "-c", BUILD_ONE_SLOT, tmp_path / "pins", tmp_path / "lock", cwd=tmp_path)
    assert {"wd_ingress", "wd_egress"} <= set(built.split())


def test_the_command_of_set_up_starts_without_site_and_takes_nothing_from_where_it_is_started(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("watchdog-mesh")
    if not (Path(sys.prefix) / ".made-from").exists():
        pytest.skip(f"scripts/setup did not make {sys.prefix}")
    assert command.read_text().splitlines()[0] == f"#!{sys.executable} -IS"
    for module in ("click", "site", "watchdog"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(3)\n")
    linked = tmp_path / "linked"
    linked.symlink_to(command)
    for way in (command, linked):
        assert run(way, "--version", cwd=tmp_path) == f"watchdog-mesh, version {watchdog.__version__}"


NOT_FROM_PYPI = {"bcc", "_typeshed"}
"""python3-bpfcc, named in docs/dependencies.md; and what type checkers alone read."""


def imported_by(source: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def test_what_is_imported_is_what_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    wanted = setup["options"]["install_requires"].split("\n")
    declared = {re.split(r"[<>=]", line)[0] for line in wanted if line}
    imports = {name for source in (CHECKOUT / "watchdog").rglob("*.py") for name in imported_by(source)}
    foreign = imports - {*sys.stdlib_module_names, "watchdog", *NOT_FROM_PYPI}
    known = packages_distributions()
    assert {known[name][0].replace("_", "-") for name in foreign} == declared
