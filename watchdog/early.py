"""What `isolate` does before it has imported itself: it holds an agent that a watcher has named, by its unit or cgroup.

Python's start and our imports take 0.1 s, in which an agent that is to be cut off goes on sending. Every watcher notes
in the run directory which agents its configuration has, and where; that is read here, with nothing imported but ctypes.
The command then looks at everything as it always does, and its refusals and errors lift the hold again. Held are only
agents that the configuration names, and only where nothing is allowed to them and nothing of the mesh is attached yet.
"""

from __future__ import annotations

import os

from watchdog.kernel.hold import Hold, carries_ours
from watchdog.kernel.slices import in_slices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONFIG_VARIABLE, CONFIG = "WATCHDOG_MESH_CONFIG", "/etc/watchdog-mesh/config.toml"
RUN_VARIABLE, RUN = "WATCHDOG_MESH_RUN_DIR", "/run/watchdog-mesh"
"""As in watchdog.config, which takes long to import."""
VERB = "isolate"
PEER, UNIT, CGROUP = "PEER", "--unit", "--cgroup"
TARGETS = (UNIT, CGROUP)
NOBODY = ("", "")
SERVICE = ".service"
FLAGS = ("--json", "--no-allow", "--paths", "--force")
REASON = "--reason"
LEVEL, LEVELS = "--level", ("network", "frozen")
VALUES = (REASON, "--incident", LEVEL)
"""With any other option nothing is held: --dry-run, --shadow, --allow, --adopt, --pid, --config, --ttl, or a wrong one;
nor without a reason, or with an empty name: the command will end there."""
PRIVATE_MODE, PRIVATE_FOLDER_MODE = 0o600, 0o700
MOST_BYTES = 1 << 20


def note(run: str, config: str, identity: str, root: str, agents: Iterable[tuple[str, str, str]]) -> None:
    """Write down the agents of a configuration: name, unit and cgroup each, "" for what it does not have.

    `identity` is the configuration's, as of before it was read. Makes the run directory where there is none. `root` is
    where cgroup v2 is mounted. Without agents nothing is held. OSError where it cannot be written.
    """
    rows = [row for row in agents if all(field.isprintable() for field in row)]
    os.makedirs(run, mode=PRIVATE_FOLDER_MODE, exist_ok=True)
    path = _note_of(run, config)
    beside = f"{path}.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write("".join(f"{line}\n" for line in (identity, root, *("\t".join(row) for row in rows))))
    os.replace(beside, path)


def identity_of(config: str) -> str:
    """What tells a configuration from every other, and from itself after a change; "" where it is not there."""
    try:
        it = os.stat(config)
    except OSError:
        return ""
    return f"{config} {it.st_dev} {it.st_ino} {it.st_size} {it.st_mtime_ns} {it.st_ctime_ns}"


def hold(words: Sequence[str]) -> Hold:
    """Stop the packets of the agent that a command line is about to isolate, if it is one; else an empty hold."""
    found = Hold()
    try:
        cgroup = _cgroup_of(*target_of(words))
        if cgroup and not carries_ours(cgroup):
            found.stop(cgroup)
    except KeyboardInterrupt:
        found.lift()  # nobody else knows yet whom it holds
        raise
    except (OSError, ValueError):
        return found  # no note, or one that is not to be trusted: the command itself says what is wrong, if anything is
    return found


def target_of(words: Sequence[str]) -> tuple[str, str]:
    """What an `isolate` is to cut off, if these words are one that allows nothing and only isolates.

    The option that names it, or PEER, and the name; two empty words otherwise.
    """
    if not words or words[0] != VERB:
        return NOBODY
    targets, reason, rest = [], "", list(words[1:])
    while rest:
        word = rest.pop(0)
        name, is_joined, value = word.partition("=")
        if name in TARGETS or name in VALUES:
            if not is_joined and not rest:
                return NOBODY
            value = value if is_joined else rest.pop(0)
            targets += [(name, value)] if name in TARGETS else []
            reason = value if name == REASON else reason
            if (name == LEVEL and value not in LEVELS) or not value.strip():
                return NOBODY
        elif word and not word.startswith("-"):
            targets.append((PEER, word))
        elif word not in FLAGS:
            return NOBODY
    return targets[0] if len(targets) == 1 and reason else NOBODY


def _cgroup_of(kind: str, name: str) -> str:
    run, config = os.environ.get(RUN_VARIABLE) or RUN, os.environ.get(CONFIG_VARIABLE) or CONFIG
    if not name or not config.startswith("/"):
        return ""
    path = _note_of(run, config)
    if os.stat(path).st_uid != os.geteuid():
        return ""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        identity, root, *rows = file.read(MOST_BYTES).split("\n")
    if identity != identity_of(config):
        return ""  # the configuration was changed since: it may mean another agent now
    for row in rows[:-1]:
        peer, unit, cgroup = row.split("\t")
        if name in {PEER: (peer,), UNIT: (unit, unit.removesuffix(SERVICE)), CGROUP: (cgroup,)}[kind]:
            return cgroup or next((at for at in in_slices(root, unit) if os.path.isdir(at)), "")
    return ""


def _note_of(run: str, config: str) -> str:
    return f"{run}/agents{config.replace('/', '-')}"
