"""Guests whose devices are behind an IOMMU: in every mode of Linux data stays what it is."""

from __future__ import annotations

import fio
import network
from guest import BEHIND_IOMMU, Disk, Guest
from lab import Lab
from netdaemon import Port
from runner import promise

MIXED = "--rw=randwrite --bsrange=512-64k --bs_unaligned=0 --size=8M --iodepth=16"
STRICT = "iommu.strict=1"
LAZY = "iommu.strict=0"
PASSTHROUGH = "iommu=pt"


@promise
def fio_verifies_behind_a_strict_iommu(lab: Lab) -> None:
    _verify(lab, STRICT)


@promise
def fio_verifies_behind_a_lazy_iommu(lab: Lab) -> None:
    _verify(lab, LAZY)


@promise
def fio_verifies_behind_an_iommu_that_passes_through(lab: Lab) -> None:
    _verify(lab, PASSTHROUGH)


@promise
def fio_verifies_on_packed_rings_behind_an_iommu(lab: Lab) -> None:
    _verify(lab, LAZY, "packed=on")


@promise
def guest_behind_an_iommu_reboots_and_its_data_is_there(lab: Lab) -> None:
    daemon = lab.daemon(lab.image())
    guest = lab.boot(Disk(daemon.socket, num_queues=1, properties=BEHIND_IOMMU), iommu=STRICT)
    guest.run("dd if=/dev/urandom of=/run/data bs=64k count=16; "
              "dd if=/run/data of=/dev/vda bs=64k oflag=direct; sha256sum </run/data")
    before = guest.run("dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | sha256sum")
    for _ in range(2):
        guest.restart("reboot -f")
        _is_translated(guest)
        after = guest.run("dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | sha256sum")
        assert after == before


@promise
def net_guest_behind_a_strict_iommu_moves_data(lab: Lab) -> None:
    _exchange(lab, STRICT)


@promise
def net_guest_behind_a_lazy_iommu_moves_data(lab: Lab) -> None:
    _exchange(lab, LAZY)


def _verify(lab: Lab, mode: str, *properties: str) -> None:
    daemon = lab.daemon(lab.image())
    disk = Disk(daemon.socket, num_queues=2, properties=(*BEHIND_IOMMU, *properties))
    guest = lab.boot(disk, cpus=2, fio=True, iommu=mode)
    _is_translated(guest)
    fio.verify(guest, MIXED)


def _exchange(lab: Lab, mode: str) -> None:
    daemon = lab.net_daemon(Port(), Port())
    nics = [network.nic(daemon, 0, 1, 0, *BEHIND_IOMMU), network.nic(daemon, 1)]
    guests = [lab.begin_to_boot(nics[0], iommu=mode), lab.begin_to_boot(nics[1])]
    one, other = [network.guest_end(guest, number + 1) for number, guest in enumerate(guests)]
    _is_translated(guests[0])
    # A frame for which no buffer is translated yet is lost; a busy host makes that likelier.
    network.ping(one, other, tries=3)
    network.ping(other, one, size=1400, tries=3)
    network.exchange(one, other)
    for end in (one, other):
        network.check_kernel(end.guest)


def _is_translated(guest: Guest) -> None:
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[33] == "1", "ACCESS_PLATFORM was not negotiated"
