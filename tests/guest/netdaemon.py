"""The network back-end under test: vhost-user-net with a socket for every guest.

Its uplink, if it has one, is in a Namespace; then the whole daemon runs in there. Where
its sockets are is not the namespace's business.

A port that connects by itself (client) has no socket to wait for: QEMU makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import BackEnd, DaemonError
from namespace import Namespace

STATS_INTERVAL = "0.05"


@dataclass(frozen=True)
class Port:
    """`options` are keys of --port, such as "vlan=7"."""

    options: tuple[str, ...] = ()
    client: bool = False


class NetDaemon(BackEnd):
    """Ports are called p0, p1, ... in the stats file; sockets[0], sockets[1], ... are theirs."""

    def __init__(
        self, program: Path, ports: Sequence[Port], folder: Path, name: str,
        namespace: Namespace | None = None, arguments: Sequence[str] = (), uplink: str = "",
    ) -> None:
        self.sockets = [folder / f"{name}.p{number}.sock" for number in range(len(ports))]
        super().__init__(
            [], [path for path, port in zip(self.sockets, ports) if not port.client], folder, name
        )
        command = [str(program), "--stats-file", str(self.stats_file)]
        command += ["--stats-interval", STATS_INTERVAL, *arguments]
        for number, (port, path) in enumerate(zip(ports, self.sockets)):
            keys = [f"p{number}", f"socket={path}", *port.options, *(["client"] if port.client else [])]
            command += ["--port", ",".join(keys)]
        if namespace is not None:
            command = namespace.command(*command, "--uplink", uplink or namespace.uplink)
        self._command = command
        self.start()

    def count(self, port: int, direction: str, counter: str) -> int:
        """A counter of a port's queues together; `direction` is from_guest or to_guest."""
        entry = next(entry for entry in self.stats()["ports"] if entry["name"] == f"p{port}")
        return sum(_number(queue[direction], counter) for queue in entry["queues"])

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 5.0) -> None:
        """Until the stats file, which is written every few moments, says so."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DaemonError(f"the stats file does not say so: {what}")
            time.sleep(0.05)


def _number(entry: Any, path: str) -> int:
    for key in path.split("/"):
        entry = entry.get(key, 0)
    return int(entry)
