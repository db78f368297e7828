"""A running guest gets more memory, uses it for its I/O, and gives it back."""

from __future__ import annotations

import time

import fio
from daemon import Daemon
from guest import Disk
from lab import Lab
from runner import promise

DIMMS = 32
# The kernel takes user memory from the last zone that has some: what was plugged in.
ONLINE = "memhp_default_state=online_movable"


@promise
def guest_memory_comes_and_goes_under_fio(lab: Lab) -> None:
    daemon = lab.daemon(lab.image(), queues=2, stats_interval=0.1)
    guest = lab.boot(Disk(daemon.socket, num_queues=2), cpus=2, fio=True, append=ONLINE,
                     memory_slots=DIMMS)
    first = _regions(daemon)
    at_boot = _kibibytes(guest.run("cat /proc/meminfo"))
    job = ("--name=load{0} --filename=/dev/vda --rw=randwrite --bsrange=4k-128k --size=8M "
           "--offset={0}6M --iodepth=8 " + fio.VERIFY)
    fio.start(guest, job.format(1), job.format(3))
    for number in range(DIMMS):
        guest.plug_memory(f"dimm{number}")
    guest.run(f"while test $(ls -d /sys/devices/system/memory/memory* | wc -l) -lt {DIMMS + 4}; "
              "do sleep 0.2; done")
    more = _kibibytes(guest.run("cat /proc/meminfo")) - at_boot
    assert more > DIMMS * 100 * 1024, f"only {more} KiB more"
    _wait_for_regions(daemon, first + DIMMS)
    assert not fio.ended(guest)
    # Now its own buffers are in memory that was not there when the rings started.
    fio.verify(guest, "--rw=randwrite --bs=256k --size=8M --offset=8M --iodepth=16")
    for number in reversed(range(DIMMS)):
        guest.unplug_memory(f"dimm{number}")
    _wait_for_regions(daemon, first)
    assert not fio.ended(guest)
    fio.stop(guest, 2)


def _kibibytes(meminfo: str) -> int:
    return int(meminfo.split("MemTotal:")[1].split()[0])


def _regions(daemon: Daemon) -> int:
    return int(daemon.stats()["connection"]["memory_regions"])


def _wait_for_regions(daemon: Daemon, count: int) -> None:
    deadline = time.monotonic() + 10.0
    while _regions(daemon) != count:
        assert time.monotonic() < deadline, f"{_regions(daemon)} regions, not {count}"
        time.sleep(0.05)
