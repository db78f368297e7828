"""What the guest made durable is durable: its flushes arrive at the host's disk.

A back-end can pass every verification and never flush. So the witness is not the daemon: the
host's disk counts the flushes it has executed (Documentation/block/stat.rst, "flush I/Os").
Other programs of the host may add to that number; it is read right before and after, and what
it must at least have grown by is what the guest asked for in between.
"""

from __future__ import annotations

import os
from pathlib import Path

from guest import Disk, Guest
from lab import Lab
from runner import Skip, promise

WRITES = 40
WITH_FSYNC = f"""
for number in $(seq {WRITES}); do
    dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=$number conv=notrunc,fsync 2>/dev/null || exit 1
done
"""
DIRECT_ONLY = f"""
for number in $(seq {WRITES}); do
    dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=$number oflag=direct conv=notrunc 2>/dev/null || exit 1
done
"""


@promise
def fsync_in_the_guest_flushes_the_disk_of_the_host(lab: Lab) -> None:
    disk = HostDisk(lab.image())
    guest = lab.boot(lab.daemon(disk.image))
    assert disk.flushes_during(guest, WITH_FSYNC) >= WRITES


@promise
def with_the_write_cache_off_every_write_flushes_the_disk_of_the_host(lab: Lab) -> None:
    disk = HostDisk(lab.image())
    guest = lab.boot(lab.daemon(disk.image))
    guest.run("echo 'write through' >/sys/block/vda/cache_type")
    assert disk.flushes_during(guest, DIRECT_ONLY) >= WRITES
    guest.run("echo 'write back' >/sys/block/vda/cache_type")
    assert disk.flushes_during(guest, DIRECT_ONLY) < WRITES, "every write is flushed: no cache at all"


@promise
def write_cache_turned_off_stays_off_over_a_kill_and_a_reboot(lab: Lab) -> None:
    disk = HostDisk(lab.image())
    daemon = lab.daemon(disk.image)
    guest = lab.boot(Disk(daemon.socket, reconnect_seconds=1))
    guest.run("echo 'write through' >/sys/block/vda/cache_type")
    daemon.kill()
    daemon.start()
    assert disk.flushes_during(guest, DIRECT_ONLY) >= WRITES, "forgotten by the daemon's death"
    guest.restart()
    assert guest.run("cat /sys/block/vda/cache_type") == "write through", "QEMU's own copy says so"
    assert disk.flushes_during(guest, DIRECT_ONLY) >= WRITES, "forgotten by the guest's reboot"


@promise
def cache_mode_writethrough_flushes_though_the_guest_asks_for_nothing(lab: Lab) -> None:
    disk = HostDisk(lab.image())
    guest = lab.boot(lab.daemon(disk.image, cache="writethrough"))
    assert guest.run("cat /sys/block/vda/cache_type") == "write through"
    assert disk.flushes_during(guest, DIRECT_ONLY) >= WRITES


class HostDisk:
    """The block device under the file system that holds an image."""

    def __init__(self, image: Path) -> None:
        self.image = image
        # Every block is there beforehand, so that later flushes are those of the data.
        with image.open("r+b") as file:
            file.write(os.urandom(image.stat().st_size))
            os.fsync(file.fileno())
        device = image.stat().st_dev
        folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        if not folder.exists():
            raise Skip(f"{image.parent} is not on a block device whose flushes could be counted")
        folder = folder.resolve()
        self._folder = folder.parent if (folder / "partition").exists() else folder
        queue = self._folder / "queue"
        if "write back" not in (queue / "write_cache").read_text():
            raise Skip("the host's disk has no write cache, so the kernel never flushes it")
        if (queue / "fua").read_text().strip() != "0":
            raise Skip("the host's disk takes durable writes without a flush")

    def flushes_during(self, guest: Guest, script: str) -> int:
        before = self._flushes()
        guest.run(script)
        return self._flushes() - before

    def _flushes(self) -> int:
        return int((self._folder / "stat").read_text().split()[15])
