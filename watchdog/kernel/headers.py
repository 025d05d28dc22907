"""Kernel headers for BCC, without writing anything anywhere.

Our programs use UAPI types only, so headers of another kernel than the running one do: what the kernel
promises to programs is in both. BCC looks under /lib/modules/$(uname -r) or, told by BCC_KERNEL_SOURCE, in
one tree. Debian splits its headers in two (one for all flavours, one per flavour); seen to work with
BCC 0.26: BCC_KERNEL_SOURCE at the common tree and the flavour's generated headers as -I options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import HostCannot

KERNEL_ARCH = {"x86_64": "x86", "aarch64": "arm64", "ppc64le": "powerpc", "s390x": "s390", "riscv64": "riscv"}
"""The kernel's arch/ folder of a machine, where it is not the machine's own name."""

DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}

_COMMON_TREE = re.compile(r"^include\s+(\S+)/Makefile\s*$", re.MULTILINE)
"""What Debian's per-flavour Makefile consists of."""


@dataclass(frozen=True, slots=True)
class HeaderRoots:
    """Where headers are looked for; tests use others."""

    modules: Path = Path("/lib/modules")
    sources: Path = Path("/usr/src")
    in_kernel: Path = Path("/sys/kernel/kheaders.tar.xz")


@dataclass(frozen=True, slots=True)
class Headers:
    """What BCC needs to be told: the tree for BCC_KERNEL_SOURCE (None: it knows itself) and -I options."""

    tree: Path | None
    includes: tuple[Path, ...] = ()


def find_headers(release: str, machine: str, roots: HeaderRoots | None = None) -> Headers:
    """The running kernel's own headers, else the newest installed. HostCannot names the packages."""
    roots = roots or HeaderRoots()
    arch = KERNEL_ARCH.get(machine, machine)
    own = _headers_at(roots.modules / release / "build", arch)
    if own:
        return own
    if roots.in_kernel.exists():
        return Headers(tree=None)
    found = (_headers_at(tree, arch) for tree in _installed_trees(roots.sources))
    usable = next((headers for headers in found if headers), None)
    if usable:
        return usable
    own_tree = roots.modules / release / "build"
    any_flavour = f"linux-headers-{DEBIAN_ARCH.get(machine, machine)}"
    raise HostCannot(
        f"no kernel headers for BCC: neither {own_tree} nor {roots.sources}/linux-headers-* has any",
        hint=f"run scripts/setup, or install linux-headers-{release} or {any_flavour}",
    )


def _installed_trees(sources: Path) -> Iterator[Path]:
    trees = [*sources.glob("linux-headers-*"), *sources.glob("kernels/*")]
    yield from sorted(trees, key=lambda tree: version_key(tree.name), reverse=True)


def version_key(name: str) -> tuple[int, ...]:
    """Sorts 6.1.0-56 after 6.1.0-9."""
    return tuple(int(digits) for digits in re.findall(r"\d+", name))


def _headers_at(tree: Path, arch: str) -> Headers | None:
    if not (tree / "include/generated/autoconf.h").is_file():
        return None
    if (tree / "include/linux/kconfig.h").is_file():
        return Headers(tree.resolve())
    common = _common_tree(tree)
    if common is None:
        return None
    generated = (
        "include",
        "include/generated/uapi",
        f"arch/{arch}/include/generated",
        f"arch/{arch}/include/generated/uapi",
    )
    folders = tuple(tree.resolve() / folder for folder in generated)
    return Headers(common, folders) if folders[-1].is_dir() else None


def _common_tree(tree: Path) -> Path | None:
    try:
        match = _COMMON_TREE.search((tree / "Makefile").read_text(errors="replace"))
    except OSError:
        return None
    common = Path(match[1]) if match else None
    return common if common and (common / "include/linux/kconfig.h").is_file() else None
