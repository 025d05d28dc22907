"""An agent of the mission: `agent.py NAME PORT` answers heartbeats, and talks all the time from its first moment on.

It is silent, and can be cured by no restart, while /run/mission/NAME.silent is there; it runs on and talks on.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

MISSION = Path("/run/mission")
SINK_PORT = 9200
TURN_S = 0.02
SINKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def main(name: str, port: int) -> None:
    talkers = [socket.socket(family, socket.SOCK_DGRAM) for family, _ in SINKS]
    talk(talkers, name)
    with (MISSION / f"{name}.starts").open("a") as starts:
        starts.write(os.environ.get("INVOCATION_ID", "none") + "\n")
    from watchdog.heartbeat import Pulse, serve

    pulse = Pulse(name)
    server = None
    while True:
        pulse.beat()
        talk(talkers, name)
        silent = (MISSION / f"{name}.silent").exists()
        if silent and server is not None:
            server.close()
            server = None
        elif not silent and server is None:
            with suppress(OSError):  # an isolated agent may not bind: it tries again
                server = serve(pulse, port=port)
        time.sleep(TURN_S)


def talk(talkers: list[socket.socket], name: str) -> None:
    """Connected, so that an isolation finds packets of it to count: what is not is refused before there is one."""
    for talker, (_, address) in zip(talkers, SINKS, strict=True):
        with suppress(OSError):
            talker.connect((address, SINK_PORT))  # refused while isolated; what it was connected to before stays
        with suppress(OSError):
            talker.send(name.encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
