"""Drivers that leave and come back, guests that reboot, daemons that are restarted."""

from __future__ import annotations

import os

import fio
from guest import Disk
from lab import MEBIBYTE, Lab
from runner import promise

# The guest's own reboot and the machine's reset line take different ways through QEMU.
REBOOT_COMMAND = "reboot -f"
REBIND = """
set -e
cd /sys/bus/virtio/drivers/virtio_blk
device=$(basename $(readlink -f /sys/block/vda/device))
for round in $(seq 20); do
    dd if=/dev/urandom of=/run/data bs=64k count=4 2>/dev/null
    dd if=/run/data of=/dev/vda bs=64k seek=$((round * 4)) oflag=direct 2>/dev/null
    echo $device >unbind
    test ! -e /sys/block/vda
    echo $device >bind
    while ! test -b /dev/vda; do sleep 0.01; done
    dd if=/dev/vda of=/run/back bs=64k skip=$((round * 4)) count=4 iflag=direct 2>/dev/null
    cmp /run/data /run/back
done
echo $round rounds
"""
REBIND_UNDER_READS = """
cd /sys/bus/virtio/drivers/virtio_blk
device=$(basename $(readlink -f /sys/block/vda/device))
for round in $(seq 5); do
    for reader in 1 2 3 4; do
        dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null &
    done
    sleep 0.05
    echo $device >unbind
    wait
    echo $device >bind || exit 1
    while ! test -b /dev/vda; do sleep 0.01; done
    dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null || exit 1
done
"""


@promise
def guest_sees_its_disk_grow_and_uses_the_new_part(lab: Lab) -> None:
    image = lab.image(mebibytes=64)
    daemon = lab.daemon(image)
    guest = lab.boot(daemon)
    os.truncate(image, 96 * MEBIBYTE)
    daemon.look_at_image()
    guest.run("until [ $(cat /sys/block/vda/size) = 196608 ]; do sleep 0.1; done")
    guest.run("echo behind the old end | dd of=/dev/vda bs=1M seek=80 conv=sync,fsync")
    with image.open("rb") as file:
        file.seek(80 * MEBIBYTE)
        assert file.read(18) == b"behind the old end"


@promise
def driver_can_be_unbound_and_bound_twenty_times_with_io_between(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=2), cpus=2)
    assert guest.run(REBIND).endswith("20 rounds")
    fio.check_kernel(guest)


@promise
def driver_can_be_unbound_while_reads_are_in_flight(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=2), cpus=2)
    guest.run(REBIND_UNDER_READS)


@promise
def one_daemon_outlives_five_reboots_of_its_guest(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=2), cpus=2)
    pid = daemon.pid
    guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=4 oflag=direct 2>/dev/null")
    written = guest.run("dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum")
    for number in range(5):
        # I/O is under way at every reboot.
        guest.run("(while dd if=/dev/vda of=/dev/null bs=1M iflag=direct; do :; done) 2>/dev/null &")
        guest.restart(REBOOT_COMMAND if number % 2 else None)
        again = guest.run("dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum")
        assert again == written, f"the data changed at reboot {number + 1}"
    daemon.check_alive()
    assert daemon.pid == pid


@promise
def one_daemon_serves_three_machines_one_after_another(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    for number in range(3):
        guest = lab.boot(daemon)
        if number:
            assert guest.run("head -n1 /dev/vda") == f"machine {number - 1}"
        guest.run(f"echo machine {number} | dd of=/dev/vda conv=sync,fsync 2>/dev/null")
        if number == 1:
            guest.qemu.end()  # Killed, not shut down.
        else:
            guest.power_off()
