"""A child process that cannot outlive us, with its output in a log file.

Every program that the tests start is started here. setpriv makes the kernel kill the child
when our process dies, however it dies; it replaces itself by the program, so that the child's
process id is the program's. A process is ended by that id and by nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Process:
    def __init__(self, command: Sequence[str], log: Path, keep_fds: Sequence[int] = ()) -> None:
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=tuple(keep_fds),
            )
        self.log = log

    @property
    def pid(self) -> int:
        return self._child.pid

    def status(self) -> int | None:
        """The exit status (negative: the signal that ended it), None while it runs."""
        return self._child.poll()

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def freeze(self) -> None:
        """Stops it where it is; returns when it stands. thaw() lets it go on."""
        self._child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def wait(self, timeout_seconds: float) -> int:
        return self._child.wait(timeout_seconds)

    def end(self) -> None:
        """Kills it if it still runs. Safe to call at any time and more than once."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
