"""A disk of 64 MiB with files in a FAT partition, and GRUB, which both a BIOS and UEFI can start.

A BIOS reads the first sector, which reads the next ones: GRUB's core, in the 1 MiB in front of the
partition. UEFI runs /EFI/BOOT/BOOTX64.EFI out of the partition. Both have the same script in them.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

SECTOR = 512
SECTORS = 64 * 2048
FIRST = 2048  # Of the partition.
PARTITION_TABLE = 446
EFI_SYSTEM = 0xEF
BOOT_SECTOR = Path("/usr/lib/grub/i386-pc/boot.img")

# Every script begins so: what GRUB says goes to the first serial port.
TO_SERIAL = "serial --unit=0\nterminal_output serial\n"
ALWAYS = ("normal", "memdisk", "tar", "serial", "terminal", "echo", "hashsum", "gcry_sha256")
FOR_DISKS = ("part_msdos", "fat", "loadenv", "linux")


def make(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """A disk with these files; no boot loader on it."""
    entry = bytes([0x80, 0, 2, 0, EFI_SYSTEM, 0xFF, 0xFF, 0xFF])
    entry += FIRST.to_bytes(4, "little") + (SECTORS - FIRST).to_bytes(4, "little")
    with path.open("wb") as image:
        image.truncate(SECTORS * SECTOR)
        image.seek(PARTITION_TABLE)
        image.write(entry.ljust(64, b"\0") + b"\x55\xaa")
    _mtools("mformat", path, "-T", str(SECTORS - FIRST), "-h", "16", "-s", "63", "::")
    for name, content in files.items():
        write(path, name, content)


def make_with_grub(path: Path, files: Mapping[str, bytes | Path], script: str) -> None:
    """The same, with GRUB, which carries out the script."""
    make(path, files)
    make_folder(path, "EFI")
    make_folder(path, "EFI/BOOT")
    write(path, "EFI/BOOT/BOOTX64.EFI", grub(path.parent, "x86_64-efi", script, *FOR_DISKS))
    core = grub(path.parent, "i386-pc", script, "biosdisk", *FOR_DISKS).read_bytes()
    if len(core) > (FIRST - 1) * SECTOR:
        raise ValueError("GRUB's core is too large for its place")
    with path.open("r+b") as image:
        image.write(BOOT_SECTOR.read_bytes()[:PARTITION_TABLE])
        image.seek(SECTOR)
        image.write(core)


def grub(folder: Path, platform: str, script: str, *modules: str) -> Path:
    """GRUB for one platform, made in the folder, with its script in it."""
    settings = (TO_SERIAL + script).encode()
    entry = tarfile.TarInfo("grub.cfg")
    entry.size = len(settings)
    inside = folder / "grub.tar"
    with tarfile.open(inside, "w") as archive:
        archive.addfile(entry, io.BytesIO(settings))
    image = folder / f"grub.{platform}"
    command = ["grub-mkimage", "-O", platform, "-m", str(inside), "-p", "(memdisk)/"]
    _run(*command, "-o", str(image), *ALWAYS, *modules)
    return image


def write(path: Path, name: str, content: bytes | Path) -> None:
    source = content
    if isinstance(source, bytes):
        source = path.parent / "content"
        source.write_bytes(content)
    _mtools("mcopy", path, "-o", str(source), f"::/{name}")


def make_folder(path: Path, name: str) -> None:
    _mtools("mmd", path, f"::/{name}")


def read(path: Path, name: str) -> bytes:
    return _mtools("mtype", path, f"::/{name}")


def _mtools(program: str, path: Path, *arguments: str) -> bytes:
    return _run(program, "-i", f"{path}@@{FIRST * SECTOR}", *arguments)


def _run(*command: str) -> bytes:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout
