"""The guest's root file system: an initramfs with busybox, the kernel modules and a few tools.

Everything is taken from the host's Debian packages; a program comes with the shared libraries
that ldd names, under the same paths; the programs themselves are in /tools. No root is needed and nothing is mounted on the host.

There are two images. The small one (a few MB) boots fastest. The large one has fio, which
Debian links with the libraries of every storage system it can drive. An image is named after
its ingredients, so a newer tool or another kernel makes a new one.

Inside, /init (file guest_init.sh) loads the modules and answers the commands of guest.py.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from cpio import CpioWriter
from kernel import Kernel

INIT = Path(__file__).with_name("guest_init.sh")
SMALL_TOOLS = ("mkfs.ext4", "e2fsck", "blkdiscard")
LARGE_TOOLS = (*SMALL_TOOLS, "fio")
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class ToolMissing(Exception):
    """A program that the guest needs is not installed on the host."""


def build(cache: Path, kernel: Kernel, *, with_fio: bool) -> Path:
    """The path of an image, made if there is none of the same ingredients yet."""
    programs = [_program(name) for name in (LARGE_TOOLS if with_fio else SMALL_TOOLS)]
    busybox = _program("busybox")
    files = {f"/tools/{path.name}": path for path in programs}
    for program in programs:
        files.update(_libraries(program))
    conf = Path("/etc/mke2fs.conf")
    if conf.exists():
        files[str(conf)] = conf
    key = _fingerprint([INIT, busybox, *kernel.modules, *files.values()])
    image = cache / f"initramfs-{'large' if with_fio else 'small'}-{key}.cpio"
    if not image.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _write(image, kernel, busybox, files)
    return image


def _write(image: Path, kernel: Kernel, busybox: Path, files: dict[str, Path]) -> None:
    partial = image.with_suffix(".partial")
    with partial.open("wb") as out:
        archive = CpioWriter(out)
        for folder in ("dev", "proc", "sys", "run", "tmp", "mnt", "modules"):
            archive.folder(folder)
        archive.file("init", INIT.read_bytes(), 0o755)
        archive.copy(busybox, "bin/busybox")
        for name, source in files.items():
            archive.copy(source, name.lstrip("/"))
        for number, module in enumerate(kernel.modules):
            archive.copy(module, f"modules/{number:02}-{module.name}")
        for applet in _applets(busybox):
            archive.symlink(f"bin/{applet}", "busybox")
        archive.finish()
    partial.rename(image)


def _program(name: str) -> Path:
    found = shutil.which(name, path=SEARCH_PATH)
    if not found:
        raise ToolMissing(f"the guest needs {name}, which is not installed (see tools/packages.txt)")
    return Path(found)


def _applets(busybox: Path) -> list[str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if name != "busybox"]


def _libraries(program: Path) -> dict[str, Path]:
    """Path in the guest -> file on the host, for each shared library the program loads."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)
    return {path: Path(path).resolve() for path in paths}


def _fingerprint(files: list[Path]) -> str:
    lines = []
    for path in files:
        status = path.stat()
        lines.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
