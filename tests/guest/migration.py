"""Moves a running guest from one QEMU to another on this host, each with back-ends of its own.

The second QEMU is started with the same machine, but for the sockets of its back-ends, and waits
for the guest; then the first is told to send it. The guest notices nothing but a pause. What runs
in it runs on, so commands that are under way must not be awaited over a move.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from guest import Guest, GuestError, Machine
from lab import Lab

MOVE_SECONDS = 90.0
# For the guest's kernel. It does not zero the pages that it allocates, which would repair what was
# not copied; its clock is one that a QEMU without KVM carries along, which it does not test first.
KERNEL = "init_on_alloc=0 clocksource=acpi_pm no_timer_check"
# Slow enough for the guest to do much meanwhile; and a pause that it can be made to take.
PARAMETERS = {"max-bandwidth": 32 << 20, "downtime-limit": 500}


# By postcopy: nearly everything is left for the second half, which takes its time.
POSTCOPY = {"max-bandwidth": 4 << 20, "max-postcopy-bandwidth": 24 << 20}


@dataclass(frozen=True)
class Move:
    """What QEMU says of it."""

    downtime_ms: int
    total_ms: int
    rounds: int


def move(lab: Lab, guest: Guest, machine: Machine) -> tuple[Guest, Move]:
    """Moves it to a new QEMU with this machine; the old one is gone."""
    target, address = _expect(lab, machine)
    guest.qmp.command("migrate-set-parameters", **PARAMETERS)
    guest.qmp.command("migrate", uri=address)
    done = _await(guest)
    guest.close()
    _await_running(target)
    return target, done


def move_by_postcopy(lab: Lab, guest: Guest, machine: Machine) -> tuple[Guest, Move]:
    """As move(), but the guest goes on there when a part of its memory has not come yet: what it, or
    a back-end, then touches is fetched."""
    target, address = _expect(lab, machine)
    for qemu in (guest, target):
        qemu.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": "postcopy-ram", "state": True}])
    guest.qmp.command("migrate-set-parameters", **{**PARAMETERS, **POSTCOPY})
    guest.qmp.command("migrate", uri=address)
    _await_bytes(guest, 4 << 20)
    guest.qmp.command("migrate-start-postcopy")
    _await_running(target)
    missing = guest.qmp.command("query-migrate")
    if missing.get("status") != "postcopy-active":
        raise GuestError(f"the guest did not go on before all of it was there: {missing}")
    done = _await(guest)
    guest.close()
    return target, done


def cancel(lab: Lab, guest: Guest, machine: Machine) -> None:
    """Begins to move it, and thinks better of it: the guest stays where it is."""
    target, address = _expect(lab, machine)
    guest.qmp.command("migrate-set-parameters", **{**PARAMETERS, "max-bandwidth": 2 << 20})
    guest.qmp.command("migrate", uri=address)
    _await_bytes(guest, 1 << 20)
    guest.qmp.command("migrate_cancel")
    while guest.qmp.command("query-migrate")["status"] != "cancelled":
        time.sleep(0.05)
    target.close()


def _expect(lab: Lab, machine: Machine) -> tuple[Guest, str]:
    """A QEMU that waits for the guest, and where."""
    address = f"unix:{lab.folder / f'move{time.monotonic_ns()}'}"
    target = lab.start(replace(machine, incoming=address))
    target.qmp.command("query-status")  # It answers once it listens.
    return target, address


def _await_bytes(guest: Guest, wanted: int) -> None:
    deadline = time.monotonic() + MOVE_SECONDS
    while guest.qmp.command("query-migrate").get("ram", {}).get("transferred", 0) < wanted:
        if time.monotonic() > deadline:
            raise GuestError("the migration does not begin")
        time.sleep(0.05)


def _await(guest: Guest) -> Move:
    deadline = time.monotonic() + MOVE_SECONDS
    while True:
        state = guest.qmp.command("query-migrate")
        if state.get("status") == "completed":
            return Move(state["downtime"], state["total-time"], state["ram"]["dirty-sync-count"])
        if state.get("status") in ("failed", "cancelled"):
            raise GuestError(f"the migration {state['status']}: {state.get('error-desc')}")
        if time.monotonic() > deadline:
            raise GuestError(f"the migration does not end: {state}")
        time.sleep(0.02)


def _await_running(guest: Guest) -> None:
    deadline = time.monotonic() + MOVE_SECONDS
    while not guest.qmp.command("query-status")["running"]:
        if time.monotonic() > deadline:
            raise GuestError("the guest does not go on where it came to")
        time.sleep(0.01)
