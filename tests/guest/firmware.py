"""What a machine can start with in place of SeaBIOS, as Debian packages it."""

from __future__ import annotations

from pathlib import Path

from runner import Skip

OVMF = Path("/usr/share/ovmf/OVMF.fd")
U_BOOT = Path("/usr/lib/u-boot/qemu-x86_64/u-boot.rom")
U_BOOT_32 = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")
PACKAGES = {OVMF: "ovmf", U_BOOT: "u-boot-qemu", U_BOOT_32: "u-boot-qemu"}


def need(*files: Path | None) -> None:
    """Skips the test if one of these is not installed."""
    for file in files:
        if file is not None and not file.exists():
            raise Skip(f"there is no {file} (package {PACKAGES.get(file, 'ipxe-qemu')})")
