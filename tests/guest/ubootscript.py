"""A script in the form in which U-Boot takes one from a disk: its legacy image format, version 1.

Headers are big-endian. The header's own sum is taken with a zero in its place.
"""

from __future__ import annotations

import struct
import zlib

MAGIC = 0x27051956
LINUX, X86, SCRIPT, UNCOMPRESSED = 5, 6, 6, 0


def image(script: str) -> bytes:
    text = script.encode()
    data = struct.pack(">II", len(text), 0) + text  # The sizes of the scripts in it, up to a 0.
    header = _header(data, 0)
    return _header(data, zlib.crc32(header)) + data


def _header(data: bytes, header_sum: int) -> bytes:
    time = load = entry = 0
    return struct.pack(
        ">7I4B32s", MAGIC, header_sum, time, len(data), load, entry, zlib.crc32(data),
        LINUX, X86, SCRIPT, UNCOMPRESSED, b"boot",
    )
