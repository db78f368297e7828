"""The architectures of guests, and what differs between them.

All are emulated: a guest of another architecture is served by this machine's daemons all the same,
for rings are little-endian everywhere.

This machine's own kernel is Debian's of the release that is installed. Of RISC-V that release has
no packages; it gets those of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """`command_port` is where /init finds the second serial port, which is a PCI device where the
    board has only one."""

    name: str
    debian: str
    kernel_package: str
    qemu: str
    chipset: str
    cpu: str
    console: str
    command_port: str
    suite: str = ""  # Of Debian; empty: the one that is installed.
    second_serial: tuple[str, ...] = ("-serial", "chardev:agent")
    firmware: str = ""  # U-Boot, which reads a kernel from a disk.
    firmware_option: str = "-bios"
    memory: str = "256M"  # Of a guest.
    patience: float = 1.0  # Times what x86-64 is given: the emulator is slower with some.
    compiler: str = ""  # A package of `suite`; empty: this machine's own, which is of that suite.

    @property
    def is_native(self) -> bool:
        return not self.suite


X86_64 = Architecture(
    "x86_64", "amd64", "linux-image-cloud-amd64", "qemu-system-x86_64",
    "pc", "max", "ttyS0", "ttyS1",
)
AARCH64 = Architecture(
    "aarch64", "arm64", "linux-image-cloud-arm64", "qemu-system-aarch64",
    # Without pointer authentication, whose emulation takes most of the time.
    "virt", "max,pauth=off", "ttyAMA0", "ttyS0",
    "bookworm", ("-device", "pci-serial,chardev=agent"), "/usr/lib/u-boot/qemu_arm64/u-boot.bin",
    memory="512M", patience=4.0,
)
RISCV64 = Architecture(
    "riscv64", "riscv64", "linux-image-riscv64", "qemu-system-riscv64",
    "virt", "rv64", "ttyS0", "ttyS1",
    "trixie", ("-device", "pci-serial,chardev=agent"),
    "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf", "-kernel",
    memory="512M", patience=8.0, compiler="g++-riscv64-linux-gnu",
)
ALL = {one.name: one for one in (X86_64, AARCH64, RISCV64)}
FOREIGN = {one.name: one for one in (AARCH64, RISCV64)}
