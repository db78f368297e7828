"""Data written through the rings comes back as it was, for every kind of driver and queue."""

from __future__ import annotations

from dataclasses import dataclass

import fio
from guest import Disk, Guest
from lab import Lab
from runner import promise

@dataclass(frozen=True)
class Option:
    properties: tuple[str, ...] = ()
    queue_size: int | None = None


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
def fio_verifies_with_each_option_of_the_rings_alone(lab: Lab) -> None:
    options = {"vda": Option(("event_idx=off",)), "vdb": Option(("indirect_desc=off",)),
               "vdc": Option(("disable-legacy=on",)), "vdd": Option(queue_size=16),
               "vde": Option(queue_size=1024)}
    disks = [Disk(lab.daemon(lab.image(f"{name}.img")).socket, 1, option.queue_size,
                  properties=option.properties) for name, option in options.items()]
    guest = lab.boot(*disks, fio=True)
    off = {(name, bit) for name in options for bit in (28, 29, 32) if not _has(guest, name, bit)}
    assert off == {("vda", 29), ("vdb", 28)}, off
    assert guest.run("cat /sys/block/vdc/device/../device") == "0x1042"
    # Linux makes as many requests of its own as the ring has entries.
    for name in ("vdd", "vde"):
        assert int(guest.run(f"cat /sys/block/{name}/mq/0/nr_tags")) == options[name].queue_size
    fio.verify(guest, "--rw=randwrite --bsrange=512-256k --bs_unaligned=0 --size=6M --iodepth=32",
               *options)


@promise
def fio_verifies_on_packed_rings(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=2, properties=("packed=on",)), cpus=2, fio=True)
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[34] == "1", "RING_PACKED was not negotiated"
    fio.verify(guest, MIXED)


def _has(guest: Guest, disk: str, feature: int) -> bool:
    return guest.run(f"cat /sys/block/{disk}/device/features")[feature] == "1"
