"""A real systemd as PID 1 of namespaces of its own, over an overlay of this machine's root.

Everything installed is inside, nothing written comes out, and nothing stays: the mounts are private to the
namespaces, every process dies with their init, and the cgroup made for them is removed. Needs root,
cgroup v2 mounted anywhere (alone or beside v1), overlayfs, util-linux and systemd.
"""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

_serial = itertools.count()

REPOSITORY = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("init.sh")
SESSION = "testbed-session.service"
COVERED = tuple(Path(path) for path in ("/proc", "/sys", "/dev", "/run", "/tmp"))  # init.sh mounts over these
START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
NAMESPACES = ("--cgroup", "--pid", "--mount", "--uts", "--ipc", "--net")
CALL_LIMIT_S = 60.0
CALL = """
import base64, pickle, sys
function, words, names = pickle.loads(base64.b64decode(sys.stdin.read()))
try:
    answer = True, function(*words, **names)
except Exception as error:
    answer = False, error
print(base64.b64encode(pickle.dumps(answer)).decode())
"""
JOIN = 'echo 0 >"$0/cgroup.procs" && exec nsenter "$@"'


class TestbedFailed(Exception):
    """The test bed did not start, or a command in it failed: says which and what it printed."""

    __test__ = False


def missing() -> str:
    """What this machine lacks for the test bed; empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    for program in ("unshare", "nsenter", "setpriv", "systemctl", "dbus-daemon"):
        if shutil.which(program) is None:
            return f"the command {program}"
    if not Path("/lib/systemd/systemd").exists():
        return "/lib/systemd/systemd"
    return "" if cgroup_v2_root() else "a cgroup v2 mount"


def cgroup_v2_root() -> Path | None:
    """Where cgroup v2 is mounted, on a unified as on a hybrid host."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def own_cgroup(root: Path) -> Path:
    """The v2 cgroup of this process."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return root / line.removeprefix("0::").lstrip("/")
    return root


def hidden(paths: Sequence[Path]) -> list[Path]:
    """Those of the directories that an overlay of / alone does not show inside."""
    root_device = Path("/").stat().st_dev
    wanted = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        covered = any(path.is_relative_to(over) for over in COVERED)
        if covered or path.stat().st_dev != root_device:
            wanted.append(path)
    return wanted


class Testbed:
    """One running systemd. Use as a context manager; everything is gone when it closes."""

    __test__ = False
    python = (sys.executable,)
    """The interpreter inside; `-m watchdog` works because PYTHONPATH names the repository."""

    def __init__(self, seed: Path | None = None) -> None:
        """`seed` is a directory whose files are inside from before the boot (not below /run, /tmp and the like)."""
        self.v2_root = cgroup_v2_root() or Path()
        self.seed = seed
        self.cgroup = self.v2_root / f"watchdog-testbed-{os.getpid()}-{next(_serial)}"
        """The bed's cgroup root, as seen from outside."""
        self.init_pid = 0
        self._unshare: subprocess.Popen[bytes] | None = None
        self._scratch = Path()

    def __enter__(self) -> Testbed:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Boot, in about two seconds; TestbedFailed with init's output when it does not come up."""
        remove_stale_cgroups(self.v2_root)
        self.cgroup.mkdir()
        self._scratch = Path(tempfile.mkdtemp(prefix="watchdog-testbed-"))
        self._spawn_init()
        deadline_s = time.monotonic() + START_LIMIT_S
        while self._nsenter(["systemctl", "is-system-running"]).stdout.strip() not in ("running", "degraded"):
            if time.monotonic() > deadline_s or self._unshare is None or self._unshare.poll() is not None:
                raise TestbedFailed(f"systemd did not come up:\n{self.log()}")
            time.sleep(0.05)
        self._nsenter(["systemctl", "start", SESSION]).check_returncode()

    def _spawn_init(self) -> None:
        show = hidden([REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)])
        init = ["sh", str(INIT), str(self._scratch), *map(str, show)]
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child", *init]
        with (self._scratch.with_suffix(".log")).open("wb") as log:
            self._unshare = subprocess.Popen(
                ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', self.cgroup, *unshare],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "SEED": str(self.seed or "")},
                start_new_session=True,
            )
        self.init_pid = self._wait_for_child()
        (own_cgroup(self.v2_root) / "cgroup.procs").write_text(str(self._unshare.pid))
        assert self._unshare.stdin is not None
        with self._unshare.stdin as go:
            go.write(b"go\n")

    def _wait_for_child(self) -> int:
        assert self._unshare is not None
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        deadline_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline_s and self._unshare.poll() is None:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.005)
        raise TestbedFailed(f"unshare did not fork:\n{self.log()}")

    def log(self) -> str:
        """What init.sh and systemd printed."""
        log = self._scratch.with_suffix(".log")
        return log.read_text(errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """Kill everything inside, remove the cgroups and the scratch directory. Runs twice without harm."""
        if self._unshare is not None:
            if self.init_pid and self._unshare.poll() is None:
                os.kill(self.init_pid, signal.SIGKILL)  # the kernel kills the whole pid namespace with it
            try:
                self._unshare.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._unshare.kill()
                self._unshare.wait()
            if self._unshare.stdin is not None:
                self._unshare.stdin.close()
            self._unshare = None
        remove_cgroups(self.cgroup)
        if self._scratch != Path():
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.with_suffix(".log").unlink(missing_ok=True)

    def _enter(self, argv: Sequence[str | Path], env: Mapping[str, str] | None) -> list[str]:
        variables = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(env or {}),
        }
        names = ["-t", str(self.init_pid), "-m", "-p", "-C", "-n", "-u", "-i", "--"]
        return [*names, "env", "-i", "-C", "/root", *(f"{k}={v}" for k, v in variables.items()), *map(str, argv)]

    def _nsenter(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Before the session's cgroup is there."""
        command = ["nsenter", *self._enter(argv, None)]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=START_LIMIT_S
        )

    def popen(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """Start a command inside and go on. It is a session of its own: end it with `testbed.kill(process)`."""
        session = self.cgroup / "system.slice" / SESSION
        settings = {"stdin": subprocess.DEVNULL, "text": True, "start_new_session": True, **options}
        command = ["sh", "-c", JOIN, str(session), *self._enter(argv, env)]
        return subprocess.Popen(command, **settings)  # type: ignore[call-overload, no-any-return]

    @staticmethod
    def kill(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
        """Signal what `popen` started inside, with what it started itself. Twice does no harm."""
        if process.returncode is None:  # not reaped: the number still is this group's
            os.killpg(process.pid, number)
            if number is signal.SIGKILL:
                process.wait()

    def run(
        self,
        argv: Sequence[str | Path],
        timeout_s: float = 30.0,
        *,
        check: bool = True,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root; TestbedFailed when it fails (unless not `check`) or takes too long."""
        pipe = subprocess.PIPE
        with self.popen(argv, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired as error:
                raise TestbedFailed(f"{argv} did not end within {timeout_s} s") from error
            finally:
                self.kill(process)
        if check and process.returncode != 0:
            raise TestbedFailed(f"{argv} ended with {process.returncode}:\n{out}\n{err}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def call(self, function: Callable[P, T], *words: P.args, **names: P.kwargs) -> T:
        """Call a function of the package in a process inside; returns and raises what it does."""
        sent = base64.b64encode(pickle.dumps((function, words, names))).decode()
        done = self.run([*self.python, "-c", CALL], CALL_LIMIT_S, stdin=sent)
        worked, value = pickle.loads(base64.b64decode(done.stdout))
        if not worked:
            raise value
        return cast(T, value)

    def systemctl(
        self, *arguments: str, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """systemctl inside."""
        return self.run(["systemctl", *arguments], timeout_s, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    @property
    def root(self) -> Path:
        """The root inside, as seen from outside: to read files without a process for each."""
        return Path(f"/proc/{self.init_pid}/root")

    def write(self, path: str | Path, text: str) -> None:
        """Write a file inside, with the directories it needs."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "-", str(path)], stdin=text)

    def read(self, path: str | Path) -> str:
        """The text of a file inside."""
        return self.run(["cat", str(path)]).stdout

    def unit(self, name: str, text: str) -> None:
        """Put a unit file in place and have systemd read it. Not started."""
        self.write(f"/run/systemd/system/{name}", text)
        self.systemctl("daemon-reload")

    def remove_unit(self, name: str) -> None:
        """Stop a unit, remove its file and drop-ins. Removing what is gone is success."""
        self.systemctl("stop", "--no-block", name, check=False)
        deadline_s = time.monotonic() + STOP_LIMIT_S
        while self.show(name, "ActiveState") not in ("inactive", "failed") and time.monotonic() < deadline_s:
            self.systemctl("kill", "--signal=KILL", name, check=False)  # also what ExecStop= runs
        self.run(["rm", "-rf", f"/run/systemd/system/{name}", f"/run/systemd/system/{name}.d"])
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed", name, check=False)


def remove_stale_cgroups(v2_root: Path) -> None:
    """Remove what test runs left that were killed with -9."""
    for cgroup in v2_root.glob("watchdog-testbed-*"):
        if not Path("/proc", cgroup.name.split("-")[2]).exists():
            remove_cgroups(cgroup)


def remove_cgroups(top: Path) -> None:
    """Remove a cgroup with everything below it, deepest first; waits for what is still dying in it."""
    deadline_s = time.monotonic() + STOP_LIMIT_S
    while top.exists():
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:  # a process in it is still dying
                if time.monotonic() > deadline_s:
                    raise
        time.sleep(0.005)
