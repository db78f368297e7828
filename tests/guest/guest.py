"""A virtual machine whose disks and network devices are served by vhost-user daemons.

QEMU runs without KVM (TCG), so the guest may be of another architecture than the daemons, and with
its memory in a shared memfd as vhost-user needs. Three channels lead into it: the first serial port
goes to a log file (kernel messages), the second carries commands to the guest's /init (see
guest_init.sh for the protocol), and QMP. The last two are socket pairs made before QEMU starts, so
there is no path to collide and no moment at which one must wait for a listener.

An answer is recognised by the number of its command; whatever else came before it is dropped.
Every wait is bounded, and an overdue answer raises GuestError with the end of the kernel's log. The
bounds are meant for x86-64; the others' are longer.
"""

from __future__ import annotations

import base64
import itertools
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import nic
from architecture import X86_64, Architecture
from nic import Nic
from process import Process
from qmp import Qmp, QmpError

BOOT_SECONDS = 45.0
COMMAND_SECONDS = 60.0


class GuestError(Exception):
    """The guest did not do what was asked of it in time, or a command in it failed."""


@dataclass(frozen=True)
class Disk:
    """One vhost-user-blk-pci device. `properties` are QEMU's, such as "disable-modern=on"."""

    socket: Path
    num_queues: int | None = None
    queue_size: int | None = None
    reconnect_seconds: int = 0
    properties: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What a guest is made of. Without a kernel the firmware boots from the first device: SeaBIOS,
    or the one that is named. Memory may be plugged in and out again where there are slots for it.
    What is written to one of the `images`, which are QEMU's own disks, is forgotten."""

    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    images: tuple[Path, ...] = ()
    architecture: Architecture = X86_64
    cpus: int = 1
    memory: str = "256M"
    memory_slots: int = 0
    firmware: Path | None = None
    kernel: Path | None = None
    initramfs: Path | None = None
    append: str = ""
    iommu: str = ""  # Linux's options for Intel's, of which there is one then.
    incoming: str = ""  # Where another QEMU will send the guest from; it does not boot then.


# The properties of a device behind the IOMMU. With ats=on Linux tells a device's own cache what it
# takes back, and QEMU tells vhost.
BEHIND_IOMMU = ("iommu_platform=on", "disable-legacy=on", "ats=on")


@dataclass(frozen=True)
class Result:
    status: int
    output: str


class Guest:
    def __init__(self, machine: Machine, folder: Path, name: str) -> None:
        self.console_log = folder / f"{name}.console.log"
        self._numbers = itertools.count(1)
        self._pending = b""
        self._patience = machine.architecture.patience
        self._agent, agent_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        command = qemu_command(machine, self.console_log, agent_end.fileno(), monitor_end.fileno())
        with agent_end, monitor_end:
            self.qemu = Process(
                command, folder / f"{name}.qemu.log", [agent_end.fileno(), monitor_end.fileno()]
            )
        self._monitor_socket = monitor
        self._qmp: Qmp | None = None

    @property
    def qmp(self) -> Qmp:
        if self._qmp is None:
            self._qmp = Qmp(self._monitor_socket)
        return self._qmp

    def wait_ready(self, timeout_seconds: float = BOOT_SECONDS) -> None:
        """Returns once /init (of the first or of a later boot) takes commands."""
        deadline = self._deadline(timeout_seconds)
        # UEFI shows its own words on this port, too, and ends them with no line feed.
        while not self._line(deadline).endswith("ready"):
            pass

    def attempt(self, script: str, timeout_seconds: float = COMMAND_SECONDS) -> Result:
        """Runs a shell script in the guest: its status and what it printed, on either stream."""
        deadline = self._deadline(timeout_seconds)
        number = str(next(self._numbers))
        self._send(f"{number} {base64.b64encode(script.encode()).decode()}\n")
        head = self._line(deadline).split(" ")
        while len(head) != 2 or head[0] != number:
            head = self._line(deadline).split(" ")
        encoded = []
        while (line := self._line(deadline)) != f"{number} end":
            encoded.append(line)
        output = base64.b64decode("".join(encoded)).decode(errors="replace")
        return Result(int(head[1]), output)

    def run(self, script: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """As attempt(), but a status other than 0 is an error. Without the last newline."""
        result = self.attempt(script, timeout_seconds)
        if result.status != 0:
            raise GuestError(f"in the guest, status {result.status}: {script}\n{result.output}")
        return result.output.rstrip("\n")

    def restart(self, script: str | None = None) -> None:
        """Reboots: by the guest's own command if one is given, else by the machine's reset line."""
        if script is None:
            self.qmp.command("system_reset")
        else:
            self._tell(script)
        self.wait_ready()

    def plug_memory(self, name: str, size: str = "128M") -> None:
        self.qmp.command("object-add", **{"qom-type": "memory-backend-memfd", "id": f"ram-{name}",
                                          "size": _bytes(size), "share": True})
        self.qmp.command("device_add", driver="pc-dimm", id=name, memdev=f"ram-{name}")

    def plugged_memory(self) -> set[str]:
        return {device["data"]["id"] for device in self.qmp.command("query-memory-devices")}

    def unplug_memory(self, name: str, timeout_seconds: float = 60.0) -> None:
        """Asks until the guest gives it up: it says no while it cannot move a page."""
        deadline = time.monotonic() + timeout_seconds
        while name in self.plugged_memory():
            self._check_alive(deadline, f"{name} to be given up")
            try:
                self.qmp.command("device_del", id=name)
            except QmpError as error:  # It is about to go, or has just gone.
                if "in the process of unplug" not in str(error) and "not found" not in str(error):
                    raise
            time.sleep(0.2)
        self.qmp.command("object-del", id=f"ram-{name}")

    def power_off(self, timeout_seconds: float = 30.0) -> None:
        self._tell("sync; poweroff -f")
        self._wait_exit(timeout_seconds)

    def console(self) -> str:
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def wait_console(self, text: str, timeout_seconds: float) -> None:
        deadline = self._deadline(timeout_seconds)
        while text not in self.console():
            self._check_alive(deadline, f"{text!r} on the console")
            time.sleep(0.05)

    def close(self) -> None:
        """Ends QEMU whatever state it is in; politely first, so that the daemon hears of it."""
        try:
            if self.qemu.status() is None:
                self.qmp.command("quit")
                self.qemu.wait(10.0)
        except (QmpError, subprocess.TimeoutExpired):
            pass
        finally:
            self.qemu.end()
            self._agent.close()
            self._monitor_socket.close()

    def _deadline(self, timeout_seconds: float) -> float:
        return time.monotonic() + timeout_seconds * self._patience

    def _wait_exit(self, timeout_seconds: float) -> None:
        try:
            status = self.qemu.wait(timeout_seconds * self._patience)
        except subprocess.TimeoutExpired:
            raise self._failure("power off") from None
        if status != 0:
            raise self._failure(f"a clean end of QEMU (status {status})")

    def _tell(self, script: str) -> None:
        """Sends a command to which no answer can come."""
        self._send(f"0 {base64.b64encode(script.encode()).decode()}\n")

    def _send(self, line: str) -> None:
        # The guest's terminal holds 4 KiB before its reader must have come round.
        if len(line) > 4000:
            raise ValueError("the script is too long for the command port")
        try:
            self._agent.sendall(line.encode())
        except OSError:
            raise self._failure("take a command") from None

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._pending:
            self._check_alive(deadline, "answer")
            self._agent.settimeout(0.5)
            try:
                received = self._agent.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                raise self._failure("answer") from None
            if not received:
                raise self._failure("answer")
            self._pending += received
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r\0")

    def _check_alive(self, deadline: float, what: str) -> None:
        if self.qemu.status() is not None or time.monotonic() > deadline:
            raise self._failure(what)

    def _failure(self, what: str) -> GuestError:
        status = self.qemu.status()
        state = "still runs" if status is None else f"ended with status {status}"
        return GuestError(f"waited in vain for: {what}; QEMU {state}")


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]


def qemu_command(machine: Machine, console: Path, agent_fd: int, monitor_fd: int) -> list[str]:
    kind = machine.architecture
    chipset = "q35" if machine.iommu else kind.chipset  # Of x86's only this one can have one.
    command = [
        kind.qemu, "-accel", "tcg,thread=multi",
        "-machine", f"{chipset},memory-backend=ram", "-cpu", kind.cpu,
        "-nodefaults", "-no-user-config", "-display", "none",
        "-smp", str(machine.cpus), "-m", machine.memory,
        "-object", f"memory-backend-memfd,id=ram,size={machine.memory},share=on",
        "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console",
        "-chardev", f"socket,id=agent,fd={agent_fd}", *kind.second_serial,
        "-chardev", f"socket,id=monitor,fd={monitor_fd}", "-mon", "chardev=monitor,mode=control",
    ]
    if machine.iommu:
        command += ["-device", "intel-iommu,intremap=off,device-iotlb=on"]
    if machine.memory_slots:
        command[command.index("-m") + 1] += f",slots={machine.memory_slots},maxmem=32G"
    if machine.firmware is not None:
        command += [kind.firmware_option, str(machine.firmware)]
    if machine.kernel is not None:
        options = f"{kernel_options(kind)} {machine.append}"
        if machine.iommu:
            options += f" intel_iommu=on {machine.iommu}"
        command += ["-kernel", str(machine.kernel), "-initrd", str(machine.initramfs)]
        command += ["-append", options.strip()]
    if machine.incoming:
        command += ["-incoming", machine.incoming]
    disks, nics = machine.disks, machine.nics
    if machine.iommu:  # Without a port before them QEMU's devices have no ATS.
        disks = tuple(_behind_port(command, f"disk{i}", disk) for i, disk in enumerate(disks))
        nics = tuple(_behind_port(command, f"nic{i}", device) for i, device in enumerate(nics))
    for image in machine.images:
        command += ["-drive", f"file={image},format=raw,if=virtio,snapshot=on"]
    for number, disk in enumerate(disks):
        command += _disk_options(number, disk)
    for number, device in enumerate(nics):
        command += nic.qemu_options(number, device)
    return command


Behind = TypeVar("Behind", Disk, Nic)


def _behind_port(command: list[str], name: str, device: Behind) -> Behind:
    command += ["-device", f"pcie-root-port,id={name}port,chassis={len(command)}"]
    return replace(device, properties=(*device.properties, f"bus={name}port"))


def kernel_options(kind: Architecture) -> str:
    """What every kernel is told."""
    return (f"console={kind.console} command_port={kind.command_port} "
            "loglevel=5 mitigations=off panic=0 no_timer_check")


def _disk_options(number: int, disk: Disk) -> Sequence[str]:
    chardev = f"socket,id=disk{number},path={disk.socket}"
    if disk.reconnect_seconds:
        chardev += f",reconnect={disk.reconnect_seconds}"
    device = [f"vhost-user-blk-pci,chardev=disk{number}"]
    if disk.num_queues is not None:
        device.append(f"num-queues={disk.num_queues}")
    if disk.queue_size is not None:
        device.append(f"queue-size={disk.queue_size}")
    return ["-chardev", chardev, "-device", ",".join([*device, *disk.properties])]
