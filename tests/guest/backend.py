"""What the daemons under test have in common: a process that listens, ends and is started again.

A daemon counts as started when its sockets listen. That is read from /proc/PID/net/unix, not
tried by connecting: a connection of ours would be a front-end, and could take the place of the
real one.

Nothing is tidied up between two starts: that a stale socket of a killed daemon does not stand
in the way of the next is the daemon's own promise.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from process import Process

LISTENING = 0x10000  # The kernel's __SO_ACCEPTCON, in the Flags column of /proc/net/unix.


class DaemonError(Exception):
    """The daemon did not start or did not end as it should."""


class BackEnd:
    """Knows its command line, and can be ended and started again with the same one."""

    def __init__(self, command: list[str], sockets: list[Path], folder: Path, name: str) -> None:
        self.stats_file = folder / f"{name}.stats.json"
        self.log = folder / f"{name}.log"
        self._command = command
        self._sockets = sockets  # Those on which it listens.
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DaemonError("the daemon is not running")
        return self._process.pid

    def start(self, timeout_seconds: float = 10.0) -> None:
        self._process = Process(self._command, self.log)
        deadline = time.monotonic() + timeout_seconds
        while not all(is_listening(path, self.pid) for path in self._sockets):
            status = self._process.status()
            if status is not None:
                raise DaemonError(f"the daemon ended with status {status} before it listened")
            if time.monotonic() > deadline:
                raise DaemonError(f"the daemon does not listen after {timeout_seconds} s")
            time.sleep(0.002)

    def check_alive(self) -> None:
        status = self._process.status() if self._process else None
        if status is not None:
            raise DaemonError(f"the daemon ended unasked, with status {status}")

    def kill_when(self, moment: Callable[[], bool], timeout_seconds: float = 10.0) -> None:
        """kill -9 when `moment` says yes; it is asked while the daemon is frozen."""
        self.check_alive()
        assert self._process is not None
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            self._process.freeze()
            if moment():
                self.kill()
                return
            self._process.thaw()
            time.sleep(0.003)
        raise DaemonError(f"the moment to kill did not come in {timeout_seconds} s")

    def signal(self, number: signal.Signals) -> None:
        self.check_alive()
        assert self._process is not None
        self._process.signal(number)

    def kill(self) -> None:
        """kill -9, and its exit awaited."""
        self.check_alive()
        self.close()

    def terminate(self, timeout_seconds: float = 10.0) -> float:
        """SIGTERM; the seconds it took to end. Any status but 0 is an error."""
        self.check_alive()
        if self._process is None:
            return 0.0
        begin = time.monotonic()
        self._process.signal(signal.SIGTERM)
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise DaemonError(f"still running {timeout_seconds} s after SIGTERM") from None
        if status != 0:
            raise DaemonError(f"SIGTERM ended the daemon with status {status}, not 0")
        self._process = None
        return time.monotonic() - begin

    def close(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def stats(self) -> Any:
        """The stats file as it is now."""
        return json.loads(self.stats_file.read_text())


def is_listening(path: Path, pid: int) -> bool:
    """As the process sees it: what /proc/net/unix lists is one network namespace."""
    try:
        lines = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    except OSError:  # It has just ended.
        return False
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path):
            return bool(int(fields[3], 16) & LISTENING)
    return False
