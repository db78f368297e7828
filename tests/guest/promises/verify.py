"""Data written through the rings comes back as it was, for every kind of driver and queue."""

from __future__ import annotations

import fio
from guest import Disk
from lab import Lab
from runner import promise

MIXED = "--rw=randwrite --bsrange=512-256k --bs_unaligned=0 --size=24M --iodepth=16"


@promise
def fio_verifies_on_one_queue(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=1), cpus=1, fio=True)
    fio.verify(guest, MIXED)


@promise
def fio_verifies_on_four_queues_at_once(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=4), cpus=4, fio=True)
    assert guest.run("ls /sys/block/vda/mq | wc -l") == "4"
    fio.verify(guest, "--rw=randwrite --bs=4k --size=4M --iodepth=8 --numjobs=4 "
                      "--offset_increment=16M --cpus_allowed=0-3 --cpus_allowed_policy=split")
    used = guest.run("awk '/virtio.*req/ { for (c = 2; c < 6; c++) s += $c; if (s) n++; s = 0 } "
                     "END { print n }' /proc/interrupts")
    assert used == "4", f"{used} queues had interrupts"


@promise
def fio_verifies_with_the_legacy_driver(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    legacy = Disk(daemon.socket, num_queues=2, properties=("disable-modern=on",))
    guest = lab.boot(legacy, cpus=2, fio=True)
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[32] == "0", "VERSION_1 was negotiated: this is not the legacy driver"
    fio.verify(guest, MIXED)


@promise
def fio_verifies_without_indirect_descriptors_and_event_index(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    plain = Disk(daemon.socket, num_queues=1, queue_size=128,
                 properties=("indirect_desc=off", "event_idx=off"))
    guest = lab.boot(plain, fio=True)
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[28] == features[29] == "0"
    fio.verify(guest, MIXED)


@promise
def fio_verifies_on_packed_rings(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=2, properties=("packed=on",)), cpus=2, fio=True)
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[34] == "1", "RING_PACKED was not negotiated"
    fio.verify(guest, MIXED)
