#!/usr/bin/env python3
"""docs/stats.md has every key of a real stats file and no other, and the histogram's error.

  stats.py VHOST_USER_BLK VHOST_BENCH
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import TOP, check, first_code, table_rows

PAGE = TOP / "docs/stats.md"


def key_complaints() -> list[str]:
    documented = {first_code(row[0]) for row in table_rows(PAGE) if first_code(row[0])}
    written = paths(real_document())
    return ([f"{PAGE.name} lacks {key}" for key in sorted(written - documented)]
            + [f"{PAGE.name} has {key}, the file has not" for key in sorted(documented - written)])


def error_complaints() -> list[str]:
    header = (TOP / "common/histogram.hpp").read_text()
    bits = int(re.search(r"split_bits = (\d+)", header)[1])
    top = int(re.search(r"top_bits = (\d+)", header)[1])
    text = PAGE.read_text()
    return [f"{PAGE.name}: nothing says '{said}'"
            for said in (f"within 1/{2 << bits} ", f"into {1 << bits} buckets", f"2^{top} ns")
            if said not in text]


def paths(value: Any, prefix: str = "") -> set[str]:
    """Where the leaves are: [] for elements of lists, OP for the names of operations."""
    if isinstance(value, list):
        return set().union({prefix + "[]"} if not value or not isinstance(value[0], dict) else set(),
                           *(paths(element, prefix + "[]") for element in value))
    if not isinstance(value, dict):
        return {prefix}
    names = {key: "OP" if prefix.endswith(".operations") else key for key in value}
    return set().union(*(paths(value[key], f"{prefix}.{names[key]}".lstrip(".")) for key in value))


def real_document() -> Any:
    """Of a daemon that has served some requests."""
    with tempfile.TemporaryDirectory() as scratch:
        image, socket, stats = (Path(scratch, name) for name in ("disk", "socket", "stats"))
        with image.open("wb") as file:
            file.truncate(1 << 20)
        daemon = subprocess.Popen(
            [sys.argv[1], "--socket-path", socket, "--blk-file", image, "--stats-file", stats,
             "--stats-interval", "50ms"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            subprocess.run([sys.argv[2], "--socket", socket, "--duration", "50ms", "--warmup",
                            "0ms"], check=True, stdout=subprocess.DEVNULL)
        finally:
            daemon.terminate()
            daemon.wait(10)
        document = json.loads(stats.read_text())
    assert document["queues"][0]["requests"] > 0, "the daemon has served no request"
    return document


if __name__ == "__main__":
    sys.exit(check(key_complaints, error_complaints))
