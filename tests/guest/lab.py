"""What a test gets: a folder of its own, and disks, daemons and guests made in it.

All that a Lab started is ended when the test is over, in reverse order, whether it passed or
failed. finish() is the last part of every test that got so far: with the guests gone, each
daemon must still be there and must end cleanly when asked to.
The folder stays only when the test failed. Socket paths must be short (108 bytes), so the
folder is a temporary one, not one under the build folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import initramfs
import kernel
from architecture import X86_64, Architecture
from backend import BackEnd
from daemon import Daemon, Options
from guest import Disk, Guest, Machine
from namespace import Namespace
from netdaemon import NetDaemon, Port
from nic import Nic
from process import Process

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Setting:
    """What is the same for all tests of a run. `program` None means qemu-storage-daemon."""

    program: Path | None
    net_program: Path
    cache: Path


class Lab:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.folder = Path(tempfile.mkdtemp(prefix="vhost-guest-"))
        self._stack = ExitStack()
        self._daemons: list[BackEnd] = []
        self._guests: list[Guest] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def image(self, name: str = "disk.img", mebibytes: int = 64) -> Path:
        """A sparse raw image."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(mebibytes * MEBIBYTE)
        return path

    def daemon(self, image: Path, program: Path | None = None, **options: Any) -> Daemon:
        """The daemon under test, or another `program` with its flags."""
        name = f"daemon{len(self._daemons)}"
        options_of = Options(image, **options)
        daemon = Daemon(program or self.setting.program, options_of, self.folder, name)
        self._daemons.append(daemon)
        self._stack.callback(daemon.close)
        return daemon

    def namespace(self, *addresses: str, **options: Any) -> Namespace:
        """A network namespace with an uplink for a daemon; the options are Namespace's."""
        namespace = Namespace(self.folder, addresses, **options)
        self._stack.callback(namespace.close)
        return namespace

    def net_daemon(
        self, *ports: Port, namespace: Namespace | None = None, arguments: Sequence[str] = (),
        uplink: str = "",
    ) -> NetDaemon:
        """A vhost-user-net; with a namespace, its uplink is in there."""
        name = f"daemon{len(self._daemons)}"
        daemon = NetDaemon(
            self.setting.net_program, ports, self.folder, name, namespace, arguments, uplink
        )
        self._daemons.append(daemon)
        self._stack.callback(daemon.close)
        return daemon

    def begin_to_boot(
        self, *nics: Nic, cpus: int = 1, kind: str = "net", iommu: str = "",
        architecture: Architecture = X86_64,
    ) -> Guest:
        """A Linux guest with these as eth0, eth1, ... It still boots: wait_ready() comes next."""
        machine = self.net_machine(
            *nics, cpus=cpus, kind=kind, iommu=iommu, architecture=architecture
        )
        return self.start(machine)

    def net_machine(
        self, *nics: Nic, cpus: int = 1, kind: str = "net", iommu: str = "", append: str = "",
        architecture: Architecture = X86_64,
    ) -> Machine:
        linux = kernel.obtain(self.setting.cache, architecture)
        root = initramfs.build(self.setting.cache, linux, kind, architecture)
        return Machine(
            nics=nics, cpus=cpus, kernel=linux.image, initramfs=root, iommu=iommu, append=append,
            architecture=architecture, memory=architecture.memory,
        )

    def process(self, process: Process) -> Process:
        """Ends it with the test."""
        self._stack.callback(process.end)
        return process

    def boot(self, *disks: Disk | Daemon, cpus: int = 1, fio: bool = False, append: str = "",
             memory_slots: int = 0, iommu: str = "") -> Guest:
        """A running Linux guest that has these disks as /dev/vda, /dev/vdb, ..."""
        machine = self.machine(*disks, cpus=cpus, fio=fio, append=append)
        guest = self.start(replace(machine, memory_slots=memory_slots, iommu=iommu))
        guest.wait_ready()
        return guest

    def machine(
        self, *disks: Disk | Daemon, cpus: int = 1, fio: bool = False, append: str = ""
    ) -> Machine:
        linux = kernel.obtain(self.setting.cache)
        root = initramfs.build(self.setting.cache, linux, "large" if fio else "small")
        return Machine(
            disks=tuple(disk if isinstance(disk, Disk) else Disk(disk.socket) for disk in disks),
            cpus=cpus, memory="512M" if fio else "256M",
            kernel=linux.image, initramfs=root, append=append,
        )

    def boot_firmware(self, first: Disk | Nic, *others: Nic, firmware: Path | None = None) -> Guest:
        """A machine without a kernel: its firmware boots from the first of its devices."""
        first = replace(first, properties=(*first.properties, "bootindex=1"))
        disks = (first,) if isinstance(first, Disk) else ()
        nics = (first, *others) if isinstance(first, Nic) else others
        return self.start(Machine(disks, nics, firmware=firmware))

    def boot_foreign(self, architecture: Architecture, *disks: Disk) -> Guest:
        """A machine of another architecture, whose U-Boot boots from the first disk."""
        return self.start(
            Machine(disks, architecture=architecture, firmware=Path(architecture.firmware),
                    cpus=2, memory=architecture.memory)
        )

    def finish(self) -> None:
        for guest in self._guests:
            guest.close()
        for daemon in self._daemons:
            daemon.terminate()

    def logs(self, last_lines: int = 25) -> str:
        """The ends of all log files, for the report of a failure."""
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-last_lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(lines))
        return "\n".join(parts)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, machine: Machine) -> Guest:
        guest = Guest(machine, self.folder, f"guest{len(self._guests)}")
        self._guests.append(guest)
        self._stack.callback(guest.close)
        return guest
