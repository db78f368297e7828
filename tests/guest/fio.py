"""fio in the guest: verified writing, in the foreground or beside other things that happen.

Every block that fio writes carries a crc32c of its content and is read back and compared.
"Passed" means: fio's status is 0, it says err= 0 for every job, and the guest's kernel reported
no I/O error meanwhile.
"""

from __future__ import annotations

import re

from guest import COMMAND_SECONDS, Guest

VERIFY = "--direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --verify_dump=0"


def verify(guest: Guest, options: str, device: str = "/dev/vda") -> str:
    """Writes and verifies; fio's report. Raises if anything at all was wrong."""
    report = guest.run(f"fio --name=verify --filename={device} {VERIFY} {options}", 120.0)
    check_report(report)
    check_kernel(guest)
    return report


def start(guest: Guest, *jobs: str) -> None:
    """Starts fio with these jobs in the background; finish() waits for it."""
    command = " ".join(jobs)
    guest.run(f"rm -f /run/fio.*; (fio {command} >/run/fio.out 2>&1; echo $? >/run/fio.status) &")


def running(guest: Guest) -> bool:
    return guest.attempt("test -e /run/fio.status").status != 0


def finish(guest: Guest, timeout_seconds: float = COMMAND_SECONDS, status: str = "0") -> str:
    """Waits for the end of start()'s fio and checks it as verify() does."""
    guest.run("while ! test -e /run/fio.status; do sleep 0.2; done", timeout_seconds)
    report = guest.run("cat /run/fio.out")
    assert guest.run("cat /run/fio.status") == status, report
    check_report(report)
    check_kernel(guest)
    return report


def stop(guest: Guest) -> str:
    """Interrupts a fio that would run for ever; its report of what happened so far."""
    guest.run("killall -INT fio")
    return finish(guest, status="128")


def check_report(report: str) -> None:
    errors = re.findall(r"err=\s*(-?\d+)", report)
    assert errors and set(errors) == {"0"}, report


def check_kernel(guest: Guest) -> None:
    complaints = guest.attempt("dmesg | grep -iE 'I/O error|blocked for more|lost async|timed out'")
    assert complaints.status == 1, complaints.output


def completed(guest: Guest, disk: str = "vda") -> int:
    """Requests that the disk has completed since it was found."""
    fields = guest.run(f"cat /sys/block/{disk}/stat").split()
    return sum(int(fields[column]) for column in (0, 4, 11, 15))
