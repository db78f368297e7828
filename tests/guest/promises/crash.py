"""The daemon dies or is restarted under a running guest, and the guest does not notice.

QEMU reconnects by itself (reconnect=1: every second). QEMU 7.2 gives a back-end up for good if
it dies during the handshake, so a kill waits until the guest's disk answers again.

A kill with nothing in flight proves nothing. So the daemon is frozen, the inflight region is
read, and only if requests are owed it is killed there and then; else it may go on for a moment.
"""

from __future__ import annotations

import time

import fio
import inflight
from daemon import Daemon
from guest import Disk, Guest, GuestError
from lab import Lab
from runner import promise

KILLS = 20
JOBS = 2
QUEUES = 2
QUEUE_SIZE = 128
WRITE_AND_VERIFY = (
    f"--filename=/dev/vda {fio.VERIFY} --name=verify --rw=randwrite --bsrange=4k-256k "
    "--size=24M --iodepth=16"
)
LARGE_READS = (
    "--name=reads --rw=randread --bs=1M --offset=64M --size=64M --iodepth=16 --io_size=1G "
    "--direct=1 --ioengine=libaio --filename=/dev/vda"
)


@promise
def guest_notices_nothing_of_twenty_kills_of_the_daemon(lab: Lab) -> None:
    daemon, guest = _machine(lab)
    owed = []
    for _ in range(KILLS):
        _wait_progress(guest)
        daemon.kill_when(lambda: _owed(guest) >= 2)
        owed.append(_owed(guest))
        daemon.start()
    _wait_progress(guest)
    _stop_fio(guest)
    assert len(owed) == KILLS and min(owed) >= 2, f"requests in flight at the kills: {owed}"


@promise
def guest_notices_nothing_of_planned_restarts_of_the_daemon(lab: Lab) -> None:
    daemon, guest = _machine(lab)
    for _ in range(3):
        _wait_progress(guest)
        seconds = daemon.terminate()
        assert seconds < 2.0, f"SIGTERM took {seconds:.1f} s"
        daemon.start()
    _wait_progress(guest)
    _stop_fio(guest)


@promise
def guest_with_packed_rings_notices_nothing_of_kills_and_restarts(lab: Lab) -> None:
    daemon, guest = _machine(lab, "packed=on")
    features = guest.run("cat /sys/bus/virtio/devices/virtio0/features")
    assert features[34] == "1", "RING_PACKED was not negotiated"
    for end in (daemon.kill, daemon.terminate, daemon.kill, daemon.kill, daemon.kill):
        _wait_progress(guest)
        end()
        daemon.start()
    _wait_progress(guest)
    _stop_fio(guest)


def _machine(lab: Lab, *properties: str) -> tuple[Daemon, Guest]:
    daemon = lab.daemon(lab.image(mebibytes=128))
    disk = Disk(daemon.socket, QUEUES, QUEUE_SIZE, reconnect_seconds=1, properties=properties)
    guest = lab.boot(disk, cpus=2, fio=True)
    fio.start(guest, WRITE_AND_VERIFY, LARGE_READS)
    return daemon, guest


def _owed(guest: Guest) -> int:
    return inflight.owed(guest.qemu.pid, QUEUES, QUEUE_SIZE)


def _wait_progress(guest: Guest, timeout_seconds: float = 20.0) -> None:
    """Returns once the disk has completed many requests from now on: QEMU is connected again."""
    deadline = time.monotonic() + timeout_seconds
    goal = fio.completed(guest) + 50
    while fio.completed(guest) < goal:
        if fio.ended(guest):
            fio.stop(guest, JOBS)
        if time.monotonic() > deadline:
            raise GuestError("the guest's disk stands still")
        time.sleep(0.02)


def _stop_fio(guest: Guest) -> None:
    """Ends fio, which must have found all well, and shows that all still is."""
    fio.stop(guest, JOBS)
    fio.verify(guest, "--rw=randwrite --bs=64k --size=8M --iodepth=8")
