"""Where the C sources are, and the key under which what was made of them is pinned."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from watchdog.errors import HostCannot
from watchdog.kernel.programs import SETS

KEY_HEX_DIGITS = 16
"""64 bits: enough to tell apart every source and kernel one host will ever see."""

SHARED_HEADER = "wd.h"


def source_dir() -> Path:
    """The folder of the C sources: watchdog/bpf in a wheel, bpf beside watchdog in a checkout.

    An editable install leads to the checkout by itself. HostCannot when the installation lost them.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "bpf", package.parent / "bpf")
    for folder in candidates:
        if (folder / SHARED_HEADER).is_file():
            return folder
    places = " or ".join(map(str, candidates))
    raise HostCannot(f"the BPF sources are missing: no {SHARED_HEADER} in {places}", hint="install watchdog-mesh again")


def source_files(folder: Path) -> list[Path]:
    """Every C source and header, in a fixed order."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".c", ".h"} and path.is_file())


@cache
def own_key() -> str:
    """The key of what this process was installed with: an upgrade meanwhile is the next process's."""
    return source_key()


def source_key(folder: Path | None = None) -> str:
    """Names the programs made of these sources on this kernel: hexadecimal, as bpffs allows no dots in names."""
    host = os.uname()
    digest = hashlib.sha256(repr((SETS, host.release, host.machine)).encode())
    for path in source_files(folder or source_dir()):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:KEY_HEX_DIGITS]
