"""QEMU's monitor protocol over a connected socket: one JSON object a line.

Only what the tests need: commands, one at a time. Events are skipped. A closed connection or
a wait of more than the time-out is a QmpError.
"""

from __future__ import annotations

import json
import socket
from typing import Any


class QmpError(Exception):
    """QEMU refused a command or no longer answers."""


class Qmp:
    def __init__(self, connection: socket.socket, timeout_seconds: float = 20.0) -> None:
        connection.settimeout(timeout_seconds)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._next()  # The greeting.
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        message: dict[str, Any] = {"execute": name}
        if arguments:
            message["arguments"] = arguments
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        while True:
            answer = self._next()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{name}: {answer['error']['desc']}")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise QmpError(f"QEMU's monitor: {error}") from error
        if not line:
            raise QmpError("QEMU closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer
