"""The child that builds: the only import of bcc, run as `python -m watchdog.kernel.compiler` by builder.py.

Everything is pinned into a directory nobody looks at, which then is renamed: a slot, and the common programs, are
there whole or not at all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import common, libbpf, lsm_links, lsm_maps, slots
from watchdog.kernel.bpffs import PRIVATE_MODE
from watchdog.kernel.programs import (
    COMMON_SETS,
    LSM,
    LSM_CONFIG_MAP,
    SLOT_SETS,
    CgroupProgram,
    LsmProgram,
    Program,
    ProgramSet,
)

LEFTOVER_PREFIX = "new-"
"""Directories being filled; without the lock held, what is left of a killed builder."""

BCC_MISSING = "bcc"
BUILD_FAILED = "build"

ATTACHED_ELSEWHERE = -1
"""What bcc takes for a program type without an attach type."""


def main(arguments: Sequence[str]) -> int:
    """Build all that is wanted and answer on the given descriptor: {} or what went wrong, as JSON."""
    answer_fd, request = int(arguments[0]), json.loads(arguments[1])
    signal.alarm(request["deadline_s"] + 1)  # also where the parent that would kill us was killed
    compiler = Compiler(Path(request["sources"]), request["includes"])
    answer: dict[str, str] = {}
    try:
        for path in map(Path, request["slots"]):
            build_slot(path, compiler)
        if request["common"]:
            build_common(Path(request["common"]), compiler)
    except ImportError as error:
        answer = {"kind": BCC_MISSING, "message": str(error)}
    except (WatchdogError, OSError) as error:
        answer = {"kind": BUILD_FAILED, "message": str(error), "hint": getattr(error, "hint", "")}
    os.write(answer_fd, json.dumps(answer).encode())
    return 1 if answer else 0


class Compiler:
    """BCC with our sources and flags."""

    def __init__(self, sources: Path, includes: Sequence[str]) -> None:
        self._sources = sources
        self._flags = [
            "-Wall",
            "-Werror=implicit-function-declaration",
            f"-I{sources}",
            *(f"-I{folder}" for folder in includes),
        ]

    def one(self, each: ProgramSet[Program]) -> Any:
        """Compile one source; its maps are made by it."""
        return self._compile(str(self._sources / each.source), src_file=str(self._sources / each.source))

    def together(self, sets: Sequence[ProgramSet[Program]]) -> Any:
        """Compile several at once, in the time of one: nearly all of it goes into headers.

        As one text, because BCC compiles no function that was included; the compiler still names the right lines.
        """
        parts = [f'#line 1 "{each.source}"\n{(self._sources / each.source).read_text()}' for each in sets]
        return self._compile(", ".join(each.source for each in sets), text="\n".join(parts))

    def _compile(self, name: str, **source: str) -> Any:
        from bcc import BPF

        try:
            return BPF(cflags=self._flags, **source)
        except Exception as error:  # bcc has no narrower type; the compiler's words are on stderr
            raise KernelRefused(f"cannot compile {name}") from error


def build_slot(path: Path, compiler: Compiler) -> None:
    """Pin one slot beside its place and put it there by one rename."""
    beside = _emptied_beside(path)
    for each in SLOT_SETS:
        compiled = compiler.one(each)
        for program in each.programs:
            libbpf.obj_pin(_load(compiled, program), beside / program.name)
        for name in each.maps:
            libbpf.obj_pin(compiled[name].map_fd, beside / name)
        compiled.cleanup()  # bcc keeps every object, and its memory, until told
    beside.rename(path)


def build_common(path: Path, compiler: Compiler) -> None:
    """Pin what this kernel takes of the common programs, and leave its reason in the place of each other one."""
    beside = _emptied_beside(path)
    no_lsm = _tried(lsm_links.try_one)
    wanted = [each for each in COMMON_SETS if each is not LSM or not no_lsm]
    for sets, compiled in _compiled_common(compiler, wanted):
        for each in sets:
            _pin_what_loads(each, compiled, beside)
        if not isinstance(compiled, KernelRefused):
            compiled.cleanup()
    if no_lsm:  # most kernels: half of the time to compile is saved
        _pin_what_loads(LSM, no_lsm, beside)
    if path.exists():  # damaged: what of it is attached stays attached
        slots.remove(path)
    beside.rename(path)


def _compiled_common(
    compiler: Compiler, wanted: Sequence[ProgramSet[Program]]
) -> Iterator[tuple[Sequence[ProgramSet[Program]], Any]]:
    """All at once; each by itself where that fails, to find out whose fault it is."""
    together = _tried(lambda: compiler.together(wanted))
    if not isinstance(together, KernelRefused):
        yield wanted, together
        return
    for each in wanted:
        yield [each], _tried(lambda each=each: compiler.one(each))


def _tried(work: Any) -> Any:
    """What the work returns, or raises: a refusal is what we want to write down."""
    try:
        return work()
    except KernelRefused as error:
        return error


def _pin_what_loads(each: ProgramSet[Program], compiled: Any, beside: Path) -> None:
    loaded = False
    if each is LSM and not isinstance(compiled, KernelRefused):
        trouble = _tried(lambda: lsm_maps.describe_members(compiled[LSM_CONFIG_MAP].map_fd))
        compiled = trouble or compiled
    for program in each.programs:
        fd = compiled if isinstance(compiled, KernelRefused) else _tried(lambda p=program: _load(compiled, p))
        if isinstance(fd, KernelRefused):
            common.leave_reason(beside / program.name, fd.message)
        else:
            libbpf.obj_pin(fd, beside / program.name)
            loaded = True
    for name in each.maps if loaded else ():
        libbpf.obj_pin(compiled[name].map_fd, beside / name)


def _emptied_beside(path: Path) -> Path:
    beside = path.with_name(f"{LEFTOVER_PREFIX}{path.name}")
    beside.parent.mkdir(mode=PRIVATE_MODE, exist_ok=True)
    beside.mkdir(mode=PRIVATE_MODE)
    return beside


def _load(compiled: Any, program: Program) -> int:
    if isinstance(program, LsmProgram):  # bcc would give it another name, and tell all refusals alike
        return lsm_links.load(program.name, program.hook, compiled.dump_func(program.name))
    hook = program.hook if isinstance(program, CgroupProgram) else ATTACHED_ELSEWHERE
    try:
        fd: int = compiled.load_func(program.name, program.type, attach_type=hook).fd
    except Exception as error:  # bcc has no narrower type; the verifier's words are on stderr
        raise KernelRefused(f"the kernel refused to load {program.name}: {error}") from error
    return fd


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
