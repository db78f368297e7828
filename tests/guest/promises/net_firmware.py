"""iPXE, QEMU's boot ROM, gets an address and boots over the daemon, with a driver of its own.

As a ROM of the BIOS it is only for modern devices: the image names their PCI number, and SeaBIOS
passes it over for another, whoever serves the device. UEFI starts it for legacy ones, too.
"""

from __future__ import annotations

from pathlib import Path

import bootserver
import firmware
import network
from lab import Lab
from netdaemon import Port
from nic import Nic
from runner import promise

ROM = Path("/usr/lib/ipxe/qemu/pxe-virtio.rom")
ROM_OF_UEFI = Path("/usr/lib/ipxe/qemu/efi-virtio.rom")
MARKER = "booted from the network"
# A boot ROM's client waits for an answer before it asks for more; the file has many frames.
SIZE = 24_000
LOAD_ADDRESS = 0x7C00
# Prints the text at its end on the first serial port: iPXE has no other way to a log file.
#   xor ax, ax; mov ds, ax; mov si, TEXT; mov dx, 0x3f8
#   next: lodsb; test al, al; jz end; out dx, al; jmp next
#   end: hlt; jmp end
PROGRAM = "31c0 8ed8 be{text} baf803 ac 84c0 7403 ee ebf8 f4 ebfd"
SCRIPT = "#!ipxe\nchain http://10.0.0.1/program\n"
# As long, and on UEFI what iPXE says is on the serial port.
LONG_SCRIPT = "#!ipxe\n" + "# nothing\n" * (SIZE // 10) + f"echo {MARKER}\n"


@promise
def net_boot_rom_gets_an_address_and_boots_over_http(lab: Lab) -> None:
    _boots(lab, _program(), None, ROM, "disable-legacy=on")


@promise
def net_boot_rom_of_uefi_boots_with_a_legacy_device(lab: Lab) -> None:
    _boots(lab, LONG_SCRIPT.encode(), firmware.OVMF, ROM_OF_UEFI, "disable-modern=on")


def _boots(lab: Lab, program: bytes, loader: Path | None, rom: Path, transport: str) -> None:
    firmware.need(loader, rom)
    namespace, host = bootserver.serve(lab, f"http://{bootserver.ADDRESS}/boot.ipxe")
    served = Path(host.folder)
    (served / "boot.ipxe").write_text(SCRIPT)
    (served / "program").write_bytes(program)
    daemon = lab.net_daemon(Port(), namespace=namespace)
    nic = Nic(daemon.sockets[0], network.mac(2), properties=(f"romfile={rom}", transport))
    guest = lab.boot_firmware(nic, firmware=loader)
    guest.wait_console(MARKER, 120.0)


def _program() -> bytes:
    text = MARKER.encode() + b"\r\n\0"
    code = bytes.fromhex(PROGRAM.format(text=(LOAD_ADDRESS + SIZE).to_bytes(2, "little").hex()))
    return code.ljust(SIZE, b"\x90") + text
