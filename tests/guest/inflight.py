"""What a dead back-end still owed its guest, read from the inflight region that QEMU keeps.

The region is a memfd of QEMU's, one section a queue: a header of 16 bytes and an entry of 16
bytes for every descriptor, whose first byte is 1 while a request that starts there is taken
and not answered. A section's length is rounded up to 64 bytes. (vhost-user, "Inflight I/O
tracking"; QEMU's libvhost-user has the same rounding.)

This is a witness of its own: it needs neither the daemon's word nor the guest's.
"""

from __future__ import annotations

import os
from pathlib import Path

HEADER = ENTRY = 16


class NoRegion(Exception):
    """QEMU holds no inflight region: the back-end did not offer one, or no ring has started."""


def owed(qemu_pid: int, queues: int, queue_size: int) -> int:
    """How many requests were taken and not answered, over all queues."""
    region = _region(qemu_pid)
    section = (HEADER + ENTRY * queue_size + 63) // 64 * 64
    return sum(
        region[start + HEADER + ENTRY * number] == 1
        for start in range(0, section * queues, section)
        for number in range(queue_size)
    )


def _region(qemu_pid: int) -> bytes:
    """The content of QEMU's only memfd that is not the guest's memory."""
    for link in Path(f"/proc/{qemu_pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:  # Closed meanwhile.
            continue
        if target.startswith("/memfd:") and "memory-backend" not in target:
            return link.read_bytes()
    raise NoRegion("QEMU holds no inflight region")
