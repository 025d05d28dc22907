"""Peers to probe, in a process of their own: some answer, some accept and never say a word."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
END_OF_REQUEST = b"\r\n\r\n"
FOREVER_S = 3600


@dataclass(frozen=True)
class Peers:
    """Endpoints; the first `hung` of them never answer."""

    urls: list[str]
    hung: int


@contextmanager
def running(count: int, hung: int) -> Iterator[Peers]:
    """`count` peers on loopback ports of their own, of which `hung` never answer."""
    command = [sys.executable, "-m", "scripts.benchmarks.peers", str(count), str(hung)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = process.stdout.readline().split()
            yield Peers([f"http://127.0.0.1:{port}/healthz" for port in ports], hung)
        finally:
            process.kill()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(END_OF_REQUEST)
            writer.write(ANSWER)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(len(END_OF_REQUEST)):
            pass
    except OSError:
        pass
    writer.close()


async def _serve(count: int, hung: int) -> None:
    ports = []
    for number in range(count):
        behaviour = _say_nothing if number < hung else _answer
        server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await asyncio.sleep(FOREVER_S)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
