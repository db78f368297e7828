"""An emulated machine of another architecture, in which the tests of a cross build run.

It boots Debian's kernel with the initramfs of guests, and has a disk with all shared libraries of
the sysroot, the few programs that tests call, and the build's own programs at the paths that they
have here. Each test program runs in a chroot on that disk. What it prints is kept in the machine;
the host gets the counts, and of failures the end.

The disk is new in each run and what is written to it is forgotten, so a machine can be killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import initramfs
import kernel
from architecture import Architecture
from guest import Guest, Machine
from runner import Tally

PROGRAM_SECONDS = 3600
DISK_BYTES = 3 << 30
TOOLS = ("bin/busybox", "sbin/ip", "bin/ip", "sbin/losetup", "usr/sbin/ip", "usr/sbin/losetup",
         "usr/bin/busybox", "usr/bin/ip")
TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    """A test program of the build, and the environment that Meson gives it."""

    name: str
    path: Path
    environment: dict[str, str]


def programs(output: Path) -> list[Program]:
    """The GoogleTest programs of a build: unit tests first."""
    found = [
        Program(test["name"], Path(test["cmd"][0]), _of_the_build(test["env"], output))
        for test in _tests(output) if test["protocol"] == "gtest"
    ]
    return sorted(found, key=lambda program: program.name.startswith("integration"))


def here(output: Path) -> list[list[str]]:
    """The commands of a build's tests that look at what was built and do not run it."""
    return [test["cmd"] for test in _tests(output) if test["name"] == "barriers"]


def _of_the_build(environment: dict[str, str], output: Path) -> dict[str, str]:
    """Without the paths of this machine's programs."""
    return {name: path for name, path in environment.items() if path.startswith(str(output))}


def _tests(output: Path) -> list[dict[str, Any]]:
    listed = subprocess.run(
        ["meson", "introspect", "--tests", output], capture_output=True, text=True, check=True
    ).stdout
    return json.loads(listed)


class CrossMachine:
    def __init__(
        self, kind: Architecture, folder: Path, sysroot: Path, output: Path, scratch: Path
    ) -> None:
        linux = kernel.obtain(folder, kind)
        disk = _disk(scratch, kind, sysroot, output)
        self.guest = Guest(
            Machine(
                images=(disk,), architecture=kind, cpus=2, memory="1G", kernel=linux.image,
                initramfs=initramfs.build(folder, linux, "cross", kind),
            ),
            scratch, kind.name,
        )

    def wait_ready(self) -> str:
        """What machine it is."""
        self.guest.wait_ready()
        return self.guest.run(
            "mount /dev/vda /mnt && cd /mnt"
            " && for name in proc sys dev; do mount --bind /$name $name; done"
            " && mkdir -p dev/shm && mount -t tmpfs shared dev/shm && chmod 666 dev/net/tun"
            " && chroot . /bin/busybox --install -s /bin"
            " && ip link set lo up && uname -srm && echo $(nproc) CPUs"
            " && awk '/^KernelPageSize/ { print \"pages of\", $2, $3; exit }' /proc/self/smaps"
        ).replace("\n", ", ")

    def run(self, program: Program) -> tuple[Tally, str]:
        """The counts, and the end of what it printed."""
        environment = {"VHOST_TESTS_EMULATED": "1", **program.environment}
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        result = self.guest.attempt(
            f"cd /mnt && chroot . /bin/env {settings} timeout {PROGRAM_SECONDS} {program.path}"
            " --gtest_brief=1 >/mnt/output 2>&1; status=$?; tail -c 6000 /mnt/output; exit $status",
            PROGRAM_SECONDS + 60.0,
        )
        def count(line: str) -> int:
            found = re.search(rf"^\[ *{line}", result.output, re.MULTILINE)
            return int(found[1]) if found else 0

        # In brief, GoogleTest counts what passed and what was skipped, and only lists what failed.
        passed, skipped = count(r"PASSED *\] (\d+)"), count(r"SKIPPED *\] (\d+)")
        failed = count(r"=+\] (\d+) tests? from .* ran") - passed - skipped
        tally = Tally(passed, max(failed, 0), skipped)
        if result.status != 0 and not tally.failed:
            tally.failed = 1  # It crashed, or its time was up.
        return tally, result.output

    def close(self) -> None:
        self.guest.close()


def _disk(scratch: Path, kind: Architecture, sysroot: Path, output: Path) -> Path:
    staging = scratch / "root"
    for folder in ("usr/bin", "usr/lib", "usr/sbin", "proc", "sys", "dev", "run", "tmp", "var/tmp",
                   "etc"):
        (staging / folder).mkdir(parents=True)
    for folder in ("bin", "lib", "sbin"):
        (staging / folder).symlink_to(f"usr/{folder}")
    (staging / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (staging / "etc/group").write_text("root:x:0:\n")
    libraries = sysroot / "usr/lib"
    for path in (*libraries.rglob("*.so"), *libraries.rglob("*.so.*"), *libraries.glob("ld-*")):
        _link(path, staging / path.relative_to(sysroot))
    for name in TOOLS:
        if (sysroot / name).exists():
            _link((sysroot / name).resolve(), staging / name)
    for path in output.rglob("*"):
        if path.is_file() and os.access(path, os.X_OK) and not path.suffix:
            _link(path, staging / path.relative_to("/"))
    shutil.copytree(TOP / "systemd", staging / (TOP / "systemd").relative_to("/"))
    image = scratch / "root.img"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    # Owned by root, whoever makes it.
    subprocess.run(
        ["/sbin/mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", staging, image],
        check=True, stdin=subprocess.DEVNULL,
    )
    shutil.rmtree(staging)
    return image


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        return
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
