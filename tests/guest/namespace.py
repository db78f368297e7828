"""A network namespace of a test's own, with an uplink for the daemon and addresses for its guests.

The uplink is a TAP, or one end of a pair of virtual Ethernet devices, which takes neither
checksums to be computed nor segments to be cut from a packet socket.

The namespace is that of a process which only sleeps; programs are started in it by nsenter. So
there is nothing to clear away: the kernel removes the namespace, the TAP and the addresses with
the last process in it, and those processes die with the tests (see process.py).

As an ordinary user it is a user namespace, too, in which we are root; where the host does not
allow those either, NotAllowed says so.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from process import Process

TIMEOUT_SECONDS = 30.0


class NotAllowed(Exception):
    """This user may make no network namespace or no TAP here; the text says why."""


class Namespace:
    """`interface` has the addresses; `uplink` is what the daemon is told."""

    def __init__(
        self, folder: Path, addresses: tuple[str, ...], *, mtu: int = 1500, queues: int = 1,
        pair: bool = False,
    ) -> None:
        self.interface = "veth0" if pair else "tap0"
        self.uplink = "af_packet:veth1" if pair else "tap:tap0"
        self.log = folder / "namespace.log"
        self._own_users = os.geteuid() != 0
        users = ["--user", "--map-root-user"] if self._own_users else []
        self._holder = Process(["unshare", *users, "--net", "sleep", "1000000"], self.log)
        try:
            self._await()
            if pair:
                self._make_pair()
            else:
                self._make_tap(queues)
            self._set_up(addresses, mtu)
        except Exception:
            self.close()
            raise

    def command(self, *program: str) -> list[str]:
        """What to start so that `program` runs in here, under the process id that one sees."""
        users = ["--user", "--preserve-credentials"] if self._own_users else []
        # A change of credentials would undo what process.py has asked the kernel for.
        enter = ["nsenter", "--target", str(self._holder.pid), *users, "--net"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *program]

    def run(self, *program: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
        result = subprocess.run(
            self.command(*program), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_seconds, check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"in the namespace: {' '.join(program)}: {result.stderr.strip()}")
        return result.stdout

    def start(self, *program: str, log: Path | None = None) -> Process:
        return Process(self.command(*program), log or self.log)

    def bridge(self, *addresses: str) -> None:
        """Puts the TAP and a second one, tap1, into a bridge of these addresses."""
        self.run("ip", "link", "add", "br0", "type", "bridge")
        self.run("ip", "tuntap", "add", "tap1", "mode", "tap", "vnet_hdr")
        for name in (self.interface, "tap1"):
            self.run("ip", "link", "set", name, "master", "br0", "up")
        self.run("ip", "link", "set", "br0", "up")
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", "br0")

    def close(self) -> None:
        self._holder.end()

    def _await(self) -> None:
        """Until the holder has left our namespace."""
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._holder.status() is None and time.monotonic() < deadline:
            try:
                if os.readlink(f"/proc/{self._holder.pid}/ns/net") != ours:
                    return
            except OSError:  # Between two of its programs it may not be looked at.
                pass
            time.sleep(0.002)
        raise NotAllowed(f"no network namespace: {self.log.read_text().strip()}")

    def _make_tap(self, queues: int) -> None:
        several = ["multi_queue"] if queues > 1 else []
        try:
            self.run("ip", "tuntap", "add", self.interface, "mode", "tap", "vnet_hdr", *several)
        except RuntimeError as error:
            raise NotAllowed(f"no TAP: {error}") from None

    def _make_pair(self) -> None:
        try:
            self.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        except RuntimeError as error:
            raise NotAllowed(f"no virtual Ethernet devices: {error}") from None
        # What the kernel leaves to a device would stay undone.
        self.run("ethtool", "-K", "veth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off")
        # The daemon's end has no part in IP, or both ends would answer for the host.
        self.run("busybox", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/veth1/disable_ipv6")
        self.run("ip", "link", "set", "veth1", "up")

    def _set_up(self, addresses: tuple[str, ...], mtu: int) -> None:
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", self.interface, "mtu", str(mtu), "up")
        for address in addresses:
            family = ["nodad"] if ":" in address else []
            self.run("ip", "addr", "add", address, "dev", self.interface, *family)
