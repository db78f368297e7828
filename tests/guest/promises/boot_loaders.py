"""GRUB on the firmware's driver: SeaBIOS's, and of OVMF both VirtioBlkDxe's transports.

It reads Linux from the disk, checks the sum of what it read, and writes; then Linux takes the
device over.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import bootdisk
import firmware
import initramfs
import kernel
from architecture import X86_64
from guest import Disk, kernel_options
from lab import Lab
from runner import promise

ENVIRONMENT = b"# GRUB Environment Block\n".ljust(1024, b"#")
SCRIPT = f"""
root=hd0,msdos1
loader=grub
if hashsum --hash sha256 --check /sums; then
    if save_env -f /environment loader; then
        linux /vmlinuz {kernel_options(X86_64)}
        initrd /initramfs
        boot
    fi
fi
"""


@promise
def grub_boots_linux_from_a_disk_of_the_bios(lab: Lab) -> None:
    _boots(lab, "disable-legacy=on", None)


@promise
def grub_boots_linux_from_a_modern_disk_of_uefi(lab: Lab) -> None:
    _boots(lab, "disable-legacy=on", firmware.OVMF)


@promise
def grub_boots_linux_from_a_legacy_disk_of_uefi(lab: Lab) -> None:
    _boots(lab, "disable-modern=on", firmware.OVMF)


def _boots(lab: Lab, transport: str, loader: Path | None) -> None:
    firmware.need(loader)
    image = _image(lab)
    daemon = lab.daemon(image)
    disk = Disk(daemon.socket, num_queues=1, properties=(transport,))
    guest = lab.boot_firmware(disk, firmware=loader)
    guest.wait_ready(120.0)
    assert guest.attempt("test -d /sys/firmware/efi").status == (1 if loader is None else 0)
    assert b"\nloader=grub\n" in bootdisk.read(image, "environment")
    begin = guest.run("dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum").split()[0]
    with image.open("rb") as file:
        assert hashlib.sha256(file.read(4 << 20)).hexdigest() == begin


def _image(lab: Lab) -> Path:
    linux = kernel.obtain(lab.setting.cache)
    root = initramfs.build(lab.setting.cache, linux, "small")
    sums = f"{hashlib.sha256(root.read_bytes()).hexdigest()}  /initramfs\n"
    files = {"vmlinuz": linux.image, "initramfs": root,
             "sums": sums.encode(), "environment": ENVIRONMENT}
    image = lab.folder / "boot.img"
    bootdisk.make_with_grub(image, files, SCRIPT)
    return image
