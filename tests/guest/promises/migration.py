"""A guest moves from one host to another, and its disk with it, under load.

Both "hosts" are this one: a QEMU and a daemon each, on one image. The guest has one CPU: with several, a
QEMU 7.2 without KVM loses writes of theirs when it migrates, whatever the devices are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import fio
import migration
from guest import Disk, Guest, Machine
from lab import Lab
from runner import Skip, promise, promise_in

TOP = Path(__file__).resolve().parent.parent.parent.parent
# The same daemon, but for one call (tests/unlogged).
UNLOGGED = TOP / "build/release/tests/unlogged/vhost-user-blk-unlogged-data"
SEED = "--rw=write --bs=4k --size=16M --offset=32M --iodepth=16"
# Reads that are verified at once, on and on: what a move loses of them is seen.
READ = (f"--name=read --filename=/dev/vda {fio.VERIFY} --rw=randread --bs=4k --size=16M "
        "--offset=32M --iodepth=32 --time_based --runtime=3")
WRITE = (f"--name=write --filename=/dev/vda {fio.VERIFY} --rw=randwrite --bsrange=512-64k "
         "--bs_unaligned=0 --size=16M --iodepth=16")

# How a guest moves to another machine.
Mover = Callable[[Lab, Guest, Machine], tuple[Guest, migration.Move]]


@promise
def guest_moves_forth_and_back_under_verified_load(lab: Lab) -> None:
    _move_under_load(lab, int(os.environ.get("VHOST_MOVES", "3")))


@promise_in("migration")
def guest_with_packed_rings_and_queues_moves_under_verified_load(lab: Lab) -> None:
    _move_under_load(lab, 2, num_queues=2, properties=("packed=on",))


@promise
def guest_stays_when_its_migration_is_cancelled_and_moves_later(lab: Lab) -> None:
    machines = _machines(lab)
    guest = _boot(lab, machines[0])
    migration.cancel(lab, guest, machines[1])
    fio.verify(guest, "--rw=randwrite --bs=4k --size=4M --iodepth=8")
    guest, _ = migration.move(lab, guest, machines[1])
    fio.verify(guest, "--rw=randwrite --bs=4k --size=4M --iodepth=8")


@promise_in("migration")
def guest_that_moves_without_the_log_of_its_data_is_found_out(lab: Lab) -> None:
    """What the others promise they would not find if they passed with this daemon, too."""
    if not UNLOGGED.exists():
        raise Skip("no daemon that leaves marks out; ./run build makes it")
    machines = _machines(lab, program=UNLOGGED)
    guest = _boot(lab, machines[0])
    fio.verify(guest, SEED)
    fio.start(guest, READ, WRITE)
    for number in range(1, 17):  # which of them shows it is a matter of luck
        guest, _ = migration.move(lab, guest, machines[number % 2])
        guest.run("sleep 3")
        if fio.ended(guest):
            break
    assert fio.ended(guest), "all that was read was right"


@promise
def guest_moves_by_postcopy_under_verified_load(lab: Lab) -> None:
    _move_under_load(lab, 2, mover=migration.move_by_postcopy, postcopy=True)


@promise_in("migration")
def guest_with_packed_rings_and_queues_moves_by_postcopy(lab: Lab) -> None:
    _move_under_load(lab, 2, mover=migration.move_by_postcopy, postcopy=True, num_queues=2,
                     properties=("packed=on",))


def _machines(
    lab: Lab, *, postcopy: bool = False, program: Path | None = None, **disk: object
) -> list[Machine]:
    image = lab.image()
    daemons = [
        lab.daemon(image, program, lock="running", serial="moving", postcopy=postcopy)
        for _ in range(2)
    ]
    return [
        lab.machine(Disk(daemon.socket, **disk), fio=True, append=migration.KERNEL)  # type: ignore[arg-type]
        for daemon in daemons
    ]


def _boot(lab: Lab, machine: Machine) -> Guest:
    guest = lab.start(machine)
    guest.wait_ready()
    return guest


def _move_under_load(lab: Lab, moves: int, mover: Mover = migration.move, postcopy: bool = False,
                     **disk: object) -> None:
    machines = _machines(lab, postcopy=postcopy, **disk)
    guest = _boot(lab, machines[0])
    fio.verify(guest, SEED)
    fio.start(guest, READ, WRITE)
    pauses = []
    for number in range(1, moves + 1):
        guest, done = mover(lab, guest, machines[number % 2])
        pauses.append(done.downtime_ms)
        _await_load(guest)
        assert not fio.ended(guest), "a job found something wrong"
    fio.stop(guest, 2)
    fio.verify(guest, SEED.replace("--rw=write", "--rw=read"))
    print(f"{moves} moves, pauses in ms as QEMU measured them: {pauses}")


def _await_load(guest: Guest) -> None:
    """Until some hundred requests were served here. Between two rounds of fio there are none."""
    wanted = fio.completed(guest) + 300
    deadline = time.monotonic() + 90
    while fio.completed(guest) < wanted:
        assert time.monotonic() < deadline, "the load stands still"
        time.sleep(0.2)
