"""What a guest sees of its disk: size, serial, queues, several disks, read-only, cache mode."""

from __future__ import annotations

import hashlib

from guest import Disk
from lab import MEBIBYTE, Lab
from runner import promise

CACHE_TYPE = "/sys/block/vda/cache_type"


@promise
def guest_sees_the_size_serial_and_queues_of_its_disks(lab: Lab) -> None:
    first = lab.daemon(lab.image("first.img", 48), serial="guest-test-01")
    second = lab.daemon(lab.image("second.img", 33), serial="guest-test-02")
    guest = lab.boot(
        Disk(first.socket, num_queues=2), Disk(second.socket, num_queues=1, queue_size=1024), cpus=2
    )
    assert int(guest.run("cat /sys/block/vda/size")) * 512 == 48 * MEBIBYTE
    assert int(guest.run("cat /sys/block/vdb/size")) * 512 == 33 * MEBIBYTE
    assert guest.run("ls /sys/block/vda/mq | wc -l") == "2"
    assert guest.run("ls /sys/block/vdb/mq | wc -l") == "1"
    assert guest.run("cat /sys/block/vda/ro") == "0"
    if lab.setting.program is not None:  # qemu-storage-daemon has one serial for all disks.
        assert guest.run("cat /sys/block/vda/serial") == "guest-test-01"
        assert guest.run("cat /sys/block/vdb/serial") == "guest-test-02"


@promise
def disk_without_a_serial_option_has_a_lasting_serial_of_its_own(lab: Lab) -> None:
    images = [lab.image("one.img", 8), lab.image("two.img", 8)]
    daemons = [lab.daemon(image) for image in images]
    guest = lab.boot(*daemons)
    serials = guest.run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial").split()
    assert len(serials) == 2 and serials[0] != serials[1], serials
    assert all(serial.strip("0") for serial in serials), serials
    guest.power_off()
    for daemon in daemons:
        daemon.terminate()
        daemon.start()
    again = lab.boot(*daemons)
    assert again.run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial").split() == serials


@promise
def read_only_disk_refuses_writes_and_its_image_stays_as_it_was(lab: Lab) -> None:
    image = lab.image(mebibytes=8)
    image.write_bytes(b"unchanged" * 932067)  # Just under 8 MiB, then made 512-aligned.
    with image.open("r+b") as file:
        file.truncate(8 * MEBIBYTE)
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    image.chmod(0o444)
    daemon = lab.daemon(image, read_only=True)
    guest = lab.boot(daemon)
    assert guest.run("cat /sys/block/vda/ro") == "1"
    assert guest.run("sha256sum </dev/vda").split()[0] == before
    assert guest.attempt("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct").status != 0
    # The kernel stops the write above by itself. With its flag cleared the request reaches us.
    guest.attempt("blockdev --setrw /dev/vda")
    assert guest.attempt("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct").status != 0
    assert guest.run("sha256sum </dev/vda").split()[0] == before
    guest.power_off()
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before


@promise
def guest_can_turn_the_write_cache_off_and_on(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(daemon)
    assert guest.run(f"cat {CACHE_TYPE}") == "write back"
    for mode in ("write through", "write back", "write through"):
        guest.run(f"echo '{mode}' >{CACHE_TYPE}")
        assert guest.run(f"cat {CACHE_TYPE}") == mode
        guest.run(f"echo '{mode}' | dd of=/dev/vda bs=512 seek=7 conv=sync,fsync")
        guest.run("echo 3 >/proc/sys/vm/drop_caches")
        assert guest.run("dd if=/dev/vda bs=512 skip=7 count=1 2>/dev/null | head -n1") == mode
    assert lab.folder.joinpath("disk.img").read_bytes()[7 * 512 :].startswith(b"write through")
