"""Drivers that poll and have one buffer under way: UEFI's, with GRUB on top, and U-Boot's.

UEFI gets GRUB from the network, and GRUB a file, whose sum it checks; both use VirtioNetDxe.
U-Boot has a disk, too: it copies data there and back, and compares them with what a server has.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import bootdisk
import bootserver
import firmware
import network
import ubootscript
from guest import Disk
from lab import MEBIBYTE, Lab
from netdaemon import Port
from nic import Nic
from runner import promise

MARKER = "All that was read is right."
GRUB_SCRIPT = f"""
server=(http,{bootserver.ADDRESS})
if hashsum --hash sha256 --check $server/sums --prefix $server; then
    echo "{MARKER}"
fi
"""

SIZE = 2 * MEBIBYTE
SECTORS = SIZE // bootdisk.SECTOR
FROM = 0x10000  # In sectors: beyond the few files that the partition has.
TO = 0x18000
FIRST, SECOND, THIRD = "0x2000000", "0x3000000", "0x4000000"
U_BOOT_SCRIPT = f"""
virtio read {FIRST} {FROM:x} {SECTORS:x} && virtio write {FIRST} {TO:x} {SECTORS:x} && \
virtio read {SECOND} {TO:x} {SECTORS:x} && cmp.b {FIRST} {SECOND} {SIZE:x} && \
dhcp {THIRD} && cmp.b {FIRST} {THIRD} {SIZE:x} && ping {bootserver.ADDRESS} && echo {MARKER}
"""


@promise
def net_uefi_with_a_modern_device_gets_grub_and_grub_a_file(lab: Lab) -> None:
    _uefi_boots(lab, "disable-legacy=on")


@promise
def net_uefi_with_a_legacy_device_gets_grub_and_grub_a_file(lab: Lab) -> None:
    _uefi_boots(lab, "disable-modern=on")


@promise
def net_u_boot_with_modern_devices_finds_the_same_on_disk_and_server(lab: Lab) -> None:
    _u_boot_compares(lab, firmware.U_BOOT, "disable-legacy=on")


@promise
def net_u_boot_of_32_bits_with_legacy_devices_finds_the_same_on_disk_and_server(lab: Lab) -> None:
    _u_boot_compares(lab, firmware.U_BOOT_32, "disable-modern=on")


def _uefi_boots(lab: Lab, transport: str) -> None:
    firmware.need(firmware.OVMF)
    namespace, host = bootserver.serve(lab, "grub.efi")
    folder = Path(host.folder)
    grub = bootdisk.grub(lab.folder, "x86_64-efi", GRUB_SCRIPT, "efinet", "net", "http")
    shutil.copy(grub, folder / "grub.efi")
    checksum = hashlib.sha256(bootserver.data(host).read_bytes()).hexdigest()
    (folder / "sums").write_text(f"{checksum}  /data\n")
    daemon = lab.net_daemon(Port(), namespace=namespace)
    # Without a boot ROM, whose driver would take the place of UEFI's own.
    nic = Nic(daemon.sockets[0], network.mac(2), properties=("romfile=", transport))
    guest = lab.boot_firmware(nic, firmware=firmware.OVMF)
    guest.wait_console(MARKER, 120.0)


def _u_boot_compares(lab: Lab, loader: Path, transport: str) -> None:
    firmware.need(loader)
    namespace, host = bootserver.serve(lab, "data")
    data = bootserver.data(host).read_bytes()
    assert len(data) == SIZE
    image = lab.folder / "boot.img"
    bootdisk.make(image, {"boot.scr": ubootscript.image(U_BOOT_SCRIPT)})
    with image.open("r+b") as file:
        file.seek(FROM * bootdisk.SECTOR)
        file.write(data)
    disk = Disk(lab.daemon(image).socket, num_queues=1, properties=(transport,))
    daemon = lab.net_daemon(Port(), namespace=namespace)
    nic = Nic(daemon.sockets[0], network.mac(2), properties=("romfile=", transport))
    guest = lab.boot_firmware(disk, nic, firmware=loader)
    guest.wait_console(MARKER, 120.0)
    guest.close()
    with image.open("rb") as file:
        file.seek(TO * bootdisk.SECTOR)
        assert file.read(SIZE) == data
