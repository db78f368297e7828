"""iPXE, QEMU's boot ROM, gets an address and boots over the daemon, with a driver of its own."""

from __future__ import annotations

from pathlib import Path

import network
from lab import Lab
from netdaemon import Port
from nic import Nic
from runner import Skip, promise

ROM = Path("/usr/lib/ipxe/qemu/pxe-virtio.rom")
MARKER = "booted from the network"
HOST = 1
# A boot ROM's client waits for an answer before it asks for more; the file has many frames.
SIZE = 24_000
LOAD_ADDRESS = 0x7C00
# Prints the text at its end on the first serial port: iPXE has no other way to a log file.
#   xor ax, ax; mov ds, ax; mov si, TEXT; mov dx, 0x3f8
#   next: lodsb; test al, al; jz end; out dx, al; jmp next
#   end: hlt; jmp end
PROGRAM = "31c0 8ed8 be{text} baf803 ac 84c0 7403 ee ebf8 f4 ebfd"
DHCP = """
interface {interface}
start 10.0.0.50
end 10.0.0.60
option subnet 255.255.255.0
option lease 600
lease_file {folder}/leases
pidfile {folder}/udhcpd.pid
boot_file http://10.0.0.1/boot.ipxe
"""
SCRIPT = "#!ipxe\nchain http://10.0.0.1/program\n"


@promise
def net_boot_rom_gets_an_address_and_boots_over_http(lab: Lab) -> None:
    if not ROM.exists():
        raise Skip(f"there is no {ROM} (package ipxe-qemu)")
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    host = network.namespace_end(lab, namespace, HOST)
    served = Path(host.folder)
    (served / "boot.ipxe").write_text(SCRIPT)
    (served / "program").write_bytes(_program())
    settings = lab.folder / "udhcpd.conf"
    settings.write_text(DHCP.format(interface=namespace.interface, folder=lab.folder))
    (lab.folder / "leases").touch()
    lab.process(namespace.start("busybox", "udhcpd", "-f", "-a", "10", str(settings)))
    daemon = lab.net_daemon(Port(), namespace=namespace)
    # As a transitional device QEMU 7.2's is not even tried by its firmware, whoever is behind it.
    properties = (f"romfile={ROM}", "disable-legacy=on")
    nic = Nic(daemon.sockets[0], network.mac(2), properties=properties)
    guest = lab.boot_from_network(nic)
    guest.wait_console(MARKER, 60.0)


def _program() -> bytes:
    text = MARKER.encode() + b"\r\n\0"
    code = bytes.fromhex(PROGRAM.format(text=(LOAD_ADDRESS + SIZE).to_bytes(2, "little").hex()))
    return code.ljust(SIZE, b"\x90") + text
