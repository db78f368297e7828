"""The back-end under test: our vhost-user-blk, or QEMU's qemu-storage-daemon to compare with.

A Daemon knows its command line and can be ended and started again with the same one. It counts
as started when its socket listens. That is read from /proc/net/unix, not tried by connecting:
a connection of ours would be a front-end, and could take the place of the real one.

Nothing is tidied up between two starts: that a stale socket of a killed daemon does not stand
in the way of the next is the daemon's own promise. (qemu-storage-daemon makes none; for it the
socket is removed.)
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process import Process

LISTENING = 0x10000  # The kernel's __SO_ACCEPTCON, in the Flags column of /proc/net/unix.


class DaemonError(Exception):
    """The daemon did not start or did not end as it should."""


@dataclass(frozen=True)
class Options:
    """How the image is served; the fields are vhost-user-blk's flags."""

    image: Path
    read_only: bool = False
    queues: int = 0  # 0: the daemon's default.
    workers: int = 0
    cache: str = ""
    serial: str = ""
    stats_interval: float = 0.0  # Above 0: a stats file is written.


class Daemon:
    """`program` is None for qemu-storage-daemon."""

    def __init__(self, program: Path | None, options: Options, folder: Path, name: str) -> None:
        self.options = options
        self.socket = folder / f"{name}.sock"
        self.stats_file = folder / f"{name}.stats.json"
        self.log = folder / f"{name}.log"
        self._program = program
        self._process: Process | None = None
        self.start()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DaemonError("the daemon is not running")
        return self._process.pid

    def start(self, timeout_seconds: float = 10.0) -> None:
        if self._program is None:
            self.socket.unlink(missing_ok=True)
        self._process = Process(self._command(), self.log)
        deadline = time.monotonic() + timeout_seconds
        while not is_listening(self.socket):
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

    def look_at_image(self) -> None:
        """SIGHUP: the image has another size."""
        self.check_alive()
        assert self._process is not None
        self._process.signal(signal.SIGHUP)

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

    def _command(self) -> list[str]:
        return self._our_command() if self._program else self._qemu_command()

    def _our_command(self) -> list[str]:
        options = self.options
        command = [str(self._program), "--socket-path", str(self.socket)]
        command += ["--blk-file", str(options.image)]
        if options.read_only:
            command.append("--read-only")
        for flag, value in (("queues", options.queues), ("workers", options.workers),
                            ("cache", options.cache), ("serial", options.serial)):
            if value:
                command += [f"--{flag}", str(value)]
        if options.stats_interval:
            command += ["--stats-file", str(self.stats_file)]
            command += ["--stats-interval", str(options.stats_interval)]
        return command

    def _qemu_command(self) -> list[str]:
        options = self.options
        node = f"file,node-name=disk,filename={options.image},discard=unmap"
        if options.read_only:
            node += ",read-only=on"
        export = "type=vhost-user-blk,id=export,node-name=disk"
        export += f",addr.type=unix,addr.path={self.socket}"
        export += f",writable={'off' if options.read_only else 'on'},num-queues={options.queues or 4}"
        return ["qemu-storage-daemon", "--blockdev", node, "--export", export]


def is_listening(path: Path) -> bool:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path):
            return bool(int(fields[3], 16) & LISTENING)
    return False
