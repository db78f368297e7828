"""SeaBIOS boots from the disk: its own small virtio-blk driver, long before any kernel."""

from __future__ import annotations

import bootsector
from guest import Disk
from lab import Lab
from runner import promise


@promise
def firmware_boots_from_a_modern_disk(lab: Lab) -> None:
    _boots(lab, "disable-legacy=on")


@promise
def firmware_boots_from_a_legacy_disk(lab: Lab) -> None:
    _boots(lab, "disable-modern=on")


def _boots(lab: Lab, transport: str) -> None:
    image = lab.folder / "boot.img"
    data = bootsector.make_image(image)
    daemon = lab.daemon(image)
    guest = lab.boot_firmware(Disk(daemon.socket, num_queues=1, properties=(transport,)))
    guest.wait_console(bootsector.MARKER.decode().strip(), 20.0)
    guest.close()
    begin = bootsector.WRITE_LBA * bootsector.SECTOR
    assert image.read_bytes()[begin : begin + len(data)] == data
