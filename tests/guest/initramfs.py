"""The guest's root file system: an initramfs with busybox, the kernel modules and a few tools.

Everything is taken from the host's Debian packages; a program comes with the shared libraries
that ldd names, under the same paths; the programs themselves are in /tools. No root is needed and
nothing is mounted on the host.

There are three images for tests. The small one (a few MB) boots fastest. The large one has fio,
which Debian links with the libraries of every storage system it can drive. The third is for guests
that have network devices; the benchmark's is one like it that has iperf3. Guests of another
architecture have busybox alone, which is linked statically. An image is named after its
ingredients, so a newer tool or another kernel makes a new one.

Inside, /init (file guest_init.sh) loads the modules and answers the commands of guest.py.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from architecture import X86_64, Architecture
from cpio import CpioWriter
from debian import Apt, unpack
from kernel import Kernel, module_content, module_name

INIT = Path(__file__).with_name("guest_init.sh")
# ext4 and crc32c are built in; if a later kernel has them as modules they are found by name.
DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
NET_MODULES = ("virtio_pci", "virtio_net", "8021q")
# What tests of a build for another architecture find in the kernels of their usual machines.
CROSS_MODULES = ("af_packet", "tun", "veth", "loop")
DISK_TOOLS = ("mkfs.ext4", "e2fsck", "blkdiscard")
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Contents:
    tools: tuple[str, ...]
    modules: tuple[str, ...]


KINDS = {
    "small": Contents(DISK_TOOLS, DISK_MODULES),
    "large": Contents((*DISK_TOOLS, "fio"), DISK_MODULES),
    "net": Contents(("ethtool",), NET_MODULES),
    "bench": Contents(("iperf3",), NET_MODULES),
    "foreign": Contents((), (*DISK_MODULES, *NET_MODULES)),
    "cross": Contents((), (*DISK_MODULES, *NET_MODULES, *CROSS_MODULES)),
}
KINDS_OF_TESTS = ("small", "large", "net")


class ToolMissing(Exception):
    """A program that the guest needs is not installed on the host."""


def build(cache: Path, kernel: Kernel, kind: str, architecture: Architecture = X86_64) -> Path:
    """The path of an image of one of the KINDS, made if there is none of these ingredients yet."""
    programs = [_program(name) for name in KINDS[kind].tools]
    modules = kernel.modules(KINDS[kind].modules)
    busybox = _program("busybox") if architecture.is_native else _busybox(cache, architecture)
    files = {f"/tools/{path.name}": path for path in programs}
    for program in programs:
        files.update(_libraries(program))
    conf = Path("/etc/mke2fs.conf")
    if conf.exists():
        files[str(conf)] = conf
    key = _fingerprint([INIT, busybox, *modules, *files.values()])
    image = cache / f"initramfs-{kind}-{key}.cpio"
    if not image.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _write(image, modules, busybox, files)
    return image


def _write(
    image: Path, modules: tuple[Path, ...], busybox: Path, files: dict[str, Path]
) -> None:
    partial = image.with_suffix(".partial")
    with partial.open("wb") as out:
        archive = CpioWriter(out)
        for folder in ("dev", "proc", "sys", "run", "tmp", "mnt", "modules"):
            archive.folder(folder)
        archive.file("init", INIT.read_bytes(), 0o755)
        archive.copy(busybox, "bin/busybox")
        for name, source in files.items():
            archive.copy(source, name.lstrip("/"))
        for number, module in enumerate(modules):
            archive.file(f"modules/{number:02}-{module_name(module)}", module_content(module))
        archive.finish()
    partial.rename(image)


def _program(name: str) -> Path:
    found = shutil.which(name, path=SEARCH_PATH)
    if not found:
        raise ToolMissing(f"the guest needs {name}, which is not installed (see tools/packages.txt)")
    return Path(found)


def _busybox(cache: Path, architecture: Architecture) -> Path:
    """Of another architecture; downloaded first if it is not in `cache`."""
    root = cache / f"busybox-{architecture.name}"
    if not root.is_dir():
        partial = root.with_name(root.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        unpack(Apt(architecture, cache).download("busybox-static", partial), partial)
        partial.rename(root)
    return next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())


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
