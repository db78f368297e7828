"""fio in the guest: verified writing, in the foreground or beside other things that happen.

Every block that fio writes carries a crc32c of its content and is read back and compared.
"Passed" means: fio's status is 0, it says err= 0 for every job, and the guest's kernel reported
no I/O error meanwhile.
"""

from __future__ import annotations

import re

from guest import Guest

VERIFY = "--direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --verify_dump=0"


def verify(guest: Guest, options: str, *disks: str) -> str:
    """Writes and verifies, on vda or on all of these at once; fio's report. Raises if anything at
    all was wrong."""
    jobs = " ".join(f"--name={disk} --filename=/dev/{disk}" for disk in disks or ("vda",))
    report = guest.run(f"fio {VERIFY} {options} {jobs}", 120.0)
    check_report(report)
    check_kernel(guest)
    return report


# One job, again and again until it is told to stop or fails. Never interrupted: fio 3.33 may wait
# for ever, for no request at all, when a signal meets its verification.
LOOP = """
(
    status=0
    rounds=0
    while test $status = 0 && ! test -e /run/fio.stop; do
        fio {job} >/run/fio.{number}.out 2>&1
        status=$?
        rounds=$((rounds + 1))
    done
    echo $status $rounds >/run/fio.{number}.end
) &
"""


def start(guest: Guest, *jobs: str) -> None:
    """Runs each of these jobs over and over in the background, until stop()."""
    guest.run("rm -f /run/fio.*")
    for number, job in enumerate(jobs):
        guest.run(LOOP.format(job=job, number=number))


def ended(guest: Guest) -> bool:
    """Whether a job has ended, which it does unasked only when it failed."""
    return guest.attempt("ls /run/fio.*.end").status == 0


def stop(guest: Guest, jobs: int) -> None:
    """Lets the rounds under way finish, and raises unless every round of every job was good."""
    guest.run("touch /run/fio.stop")
    wait = f"while test $(ls /run/fio.*.end 2>/dev/null | wc -l) -lt {jobs}; do sleep 0.1; done"
    guest.run(wait, 90.0)
    for number in range(jobs):
        report = guest.run(f"cat /run/fio.{number}.out")
        status, rounds = guest.run(f"cat /run/fio.{number}.end").split()
        assert status == "0" and int(rounds) > 0, f"round {rounds} ended with {status}:\n{report}"
        check_report(report)
    check_kernel(guest)


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
