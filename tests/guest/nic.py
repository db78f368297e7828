"""A guest's vhost-user-net device, as QEMU is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Nic:
    """`properties` are QEMU's, such as "mrg_rxbuf=off".

    With `server` QEMU listens and the daemon connects; else QEMU connects, again and again if
    `reconnect_seconds` is above 0.
    """

    socket: Path
    mac: str
    queues: int = 1  # Pairs.
    server: bool = False
    reconnect_seconds: int = 0
    properties: tuple[str, ...] = ()


def qemu_options(number: int, nic: Nic) -> Sequence[str]:
    chardev = f"socket,id=net{number},path={nic.socket}"
    if nic.server:
        chardev += ",server=on,wait=off"
    if nic.reconnect_seconds:
        chardev += f",reconnect={nic.reconnect_seconds}"
    backend = f"vhost-user,id=netdev{number},chardev=net{number},queues={nic.queues}"
    # Without MSI-X: QEMU 7.2 crashes when vhost-user-net has it and the guest is emulated.
    device = [f"virtio-net-pci,netdev=netdev{number},mac={nic.mac},vectors=0"]
    if nic.queues > 1:
        device.append("mq=on")
    if not any(text.startswith(("romfile=", "bootindex=")) for text in nic.properties):
        device.append("romfile=")  # Nobody boots from it.
    return ["-chardev", chardev, "-netdev", backend, "-device", ",".join([*device, *nic.properties])]
