#!/usr/bin/env python3
"""The installed library suffices: the examples are built against it, and work.

  installed.py BUILD VHOST_USER_BLK

Installs a build into a scratch folder and builds each example there as the project of its own that
it is. Then the entropy device is driven by its front-end, and first_sector reads a disk of the
daemon.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import TOP, check

EXAMPLES = ("entropy", "first_sector")
SCRATCH = tempfile.TemporaryDirectory(prefix="installed-")
FOLDER = Path(SCRATCH.name)


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run([str(word) for word in command], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=os.environ | environment, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"status {done.returncode}: {command}\n{done.stdout}")
    return done.stdout


INSTALLED = (
    "bin/vhost-bench",
    *(name for program in ("vhost-user-blk", "vhost-user-net") for name in (
        f"bin/{program}", f"lib/systemd/system/{program}@.service",
        f"lib/sysusers.d/{program}.conf", f"share/qemu/vhost-user/50-{program}.json",
        f"share/doc/{program}/example.conf")),
)


def install() -> dict[str, str]:
    """The environment in which pkg-config finds what was installed."""
    root = FOLDER / "root"
    run("meson", "install", "-C", sys.argv[1], "--no-rebuild", "--destdir", root)
    description = next(root.rglob("libvhost.pc"))
    return {"PKG_CONFIG_PATH": str(description.parent), "PKG_CONFIG_SYSROOT_DIR": str(root)}


def file_complaints() -> list[str]:
    """What the README's installation leads one to expect is there."""
    prefix = next((FOLDER / "root").rglob("include")).parent
    return [f"{name} is not installed" for name in INSTALLED if not (prefix / name).is_file()]


def header_complaints() -> list[str]:
    """Every header is installed, and each can be included first."""
    include = next((FOLDER / "root").rglob("include"))
    ours = {path.relative_to(TOP) for path in (TOP / "libvhost").rglob("*.hpp")}
    theirs = {path.relative_to(include) for path in include.rglob("*.hpp")}
    complaints = [f"{header} is not installed" for header in sorted(ours - theirs)]
    for header in sorted(theirs):
        done = subprocess.run(
            ["c++", "-std=c++23", "-fsyntax-only", "-I", include, "-include", header, "-x", "c++",
             "/dev/null"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            complaints.append(f"{header} cannot be included by itself:\n{done.stderr}")
    return complaints


def example_complaints() -> list[str]:
    for example in EXAMPLES:
        if sum(1 for _ in (TOP / "examples" / example / f"{example}.cpp").open()) >= 200:
            return [f"{example} has 200 lines or more"]
        run("meson", "setup", FOLDER / example, TOP / "examples" / example, **ENVIRONMENT)
        run("ninja", "-C", FOLDER / example)
    return []


def entropy_complaints() -> list[str]:
    socket = FOLDER / "entropy.sock"
    with serving([FOLDER / "entropy/entropy", socket], socket):
        fetch = FOLDER / "entropy/fetch"
        first, second = run(fetch, socket, "16").strip(), run(fetch, socket, "16").strip()
        many = run(fetch, socket, "100000").strip()
    if len(first) != 32 or first == second:
        return [f"these are not 16 random bytes twice: {first} {second}"]
    counts = [many.count(digit) for digit in "0123456789abcdef"]
    even = len(many) // 16
    if len(many) != 200000 or not all(0.9 * even < count < 1.1 * even for count in counts):
        return [f"100000 bytes do not look random: {counts}"]
    return []


def disk_complaints() -> list[str]:
    image, socket = FOLDER / "disk.img", FOLDER / "disk.sock"
    image.write_bytes(b"boot" + bytes(1024 * 1024 - 4))
    daemon = [sys.argv[2], "--socket-path", socket, "--blk-file", image, "--serial", "example"]
    with serving(daemon, socket):
        shown = run(FOLDER / "first_sector/first_sector", socket)
    expected = "1048576 bytes, serial example\n62 6f 6f 74 00 "
    return [] if shown.startswith(expected) else [f"first_sector printed: {shown}"]


class serving:
    """A back-end for as long as a `with` lasts."""

    def __init__(self, command: list[str | Path], socket: Path) -> None:
        self._process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *unused: object) -> None:
        self._process.terminate()
        self._process.wait(10)


if __name__ == "__main__":
    ENVIRONMENT = install()
    with SCRATCH:
        sys.exit(check(file_complaints, header_complaints, example_complaints, entropy_complaints,
                       disk_complaints))
