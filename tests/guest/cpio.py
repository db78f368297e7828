"""Writer of cpio archives in the "newc" format, the one the Linux kernel unpacks as initramfs.

Files are added from memory or from disk, with the owner root and fixed times, so that an
archive can be made by an ordinary user and is the same every time. Device nodes are not
needed: the guest mounts devtmpfs.

Format: per entry a header of 110 ASCII bytes (magic and 13 numbers of eight hex digits), the
name with its NUL, padding to four bytes, the content, padding to four bytes. The archive ends
with an entry called TRAILER!!!. (Linux, Documentation/driver-api/early-userspace/buffer-format.)
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO


class CpioWriter:
    """One archive being written to `out`. Parent folders of an entry are added by themselves."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._known: set[str] = set()

    def folder(self, name: str) -> None:
        if name in ("", ".") or name in self._known:
            return
        self._parents(name)
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        if name in self._known:
            return
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, content)

    def copy(self, source: Path, name: str) -> None:
        mode = 0o755 if source.stat().st_mode & 0o111 else 0o644
        self.file(name, source.read_bytes(), mode)

    def symlink(self, name: str, target: str) -> None:
        if name in self._known:
            return
        self._parents(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> None:
        self._entry("TRAILER!!!", 0, b"")

    def _parents(self, name: str) -> None:
        self.folder(str(PurePosixPath(name).parent))

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._known.add(name)
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [self._inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._out.write(_padded(header + encoded))
        self._out.write(_padded(content))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
