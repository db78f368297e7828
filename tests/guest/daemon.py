"""The block back-end under test: our vhost-user-blk, or qemu-storage-daemon to compare with."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from backend import BackEnd


@dataclass(frozen=True)
class Options:
    """How the image is served; the fields are vhost-user-blk's flags."""

    image: Path
    read_only: bool = False
    queues: int = 0  # 0: the daemon's default.
    workers: int = 0
    cache: str = ""
    serial: str = ""
    lock: str = ""
    postcopy: bool = False
    stats_interval: float = 0.0  # Above 0: a stats file is written.


class Daemon(BackEnd):
    """`program` is None for qemu-storage-daemon."""

    def __init__(self, program: Path | None, options: Options, folder: Path, name: str) -> None:
        self.options = options
        self.socket = folder / f"{name}.sock"
        self._program = program
        super().__init__([], [self.socket], folder, name)
        self._command = self._our_command() if program else self._qemu_command()
        self.start()

    def start(self, timeout_seconds: float = 10.0) -> None:
        if self._program is None:  # It does not clear a stale socket away.
            self.socket.unlink(missing_ok=True)
        super().start(timeout_seconds)

    def look_at_image(self) -> None:
        """SIGHUP: the image has another size."""
        self.signal(signal.SIGHUP)

    def _our_command(self) -> list[str]:
        options = self.options
        command = [str(self._program), "--socket-path", str(self.socket)]
        command += ["--blk-file", str(options.image)]
        if options.read_only:
            command.append("--read-only")
        if options.postcopy:
            command.append("--postcopy")
        for flag, value in (("queues", options.queues), ("workers", options.workers),
                            ("cache", options.cache), ("serial", options.serial),
                            ("lock", options.lock)):
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
