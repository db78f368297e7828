#!/usr/bin/env python3
"""docs/stats.md has every key of real stats files and no other, and the histogram's error.

  stats.py VHOST_USER_BLK VHOST_BENCH VHOST_USER_NET
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
    complaints = []
    for program, document in (("vhost-user-blk", blk_document), ("vhost-user-net", net_document)):
        rows = table_rows(PAGE, f"## Keys of {program}")
        documented = {first_code(row[0]) for row in rows if first_code(row[0])}
        written = paths(document())
        complaints += [f"{PAGE.name} lacks {key} of {program}"
                       for key in sorted(written - documented)]
        complaints += [f"{PAGE.name} has {key}, the file of {program} has not"
                       for key in sorted(documented - written)]
    return complaints


def reason_complaints() -> list[str]:
    """Each reason of a dropped frame has its row, in the order of the source."""
    header = (TOP / "backends/net/frame/traffic.hpp").read_text()
    reasons = re.findall(r"^  (\w+),\s*///<", header.split("enum class Drop", 1)[1], re.M)
    rows = [row[0] for row in table_rows(PAGE, "### Drops")[1:]]
    return [] if reasons == rows else [f"{PAGE.name}: the reasons are {reasons}, not {rows}"]


def error_complaints() -> list[str]:
    header = (TOP / "common/histogram.hpp").read_text()
    bits = int(re.search(r"split_bits = (\d+)", header)[1])
    top = int(re.search(r"top_bits = (\d+)", header)[1])
    text = PAGE.read_text()
    return [f"{PAGE.name}: nothing says '{said}'"
            for said in (f"within 1/{2 << bits} ", f"into {1 << bits} buckets", f"2^{top} ns")
            if said not in text]


# What stands in the page for names that are many, by the key above them.
NAMES = {"operations": "OP", "size_classes": "SIZE", "drops": "REASON",
         "driver_counters": "COUNTER"}


def paths(value: Any, prefix: str = "") -> set[str]:
    """Where the leaves are: [] for elements of lists, a word for names that are many."""
    if isinstance(value, list):
        return set().union({prefix + "[]"} if not value or not isinstance(value[0], dict) else set(),
                           *(paths(element, prefix + "[]") for element in value))
    if not isinstance(value, dict):
        return {prefix}
    name = NAMES.get(prefix.rpartition(".")[2])
    return set().union(*(paths(value[key], f"{prefix}.{name or key}".lstrip(".")) for key in value))


def blk_document() -> Any:
    """Of a daemon that has served some requests."""
    with tempfile.TemporaryDirectory() as scratch:
        image, socket = Path(scratch, "disk"), Path(scratch, "socket")
        with image.open("wb") as file:
            file.truncate(1 << 20)
        document = document_after(
            Path(scratch, "stats"), [sys.argv[1], "--socket-path", socket, "--blk-file", image],
            [socket], ["--socket", socket])
    assert document["queues"][0]["requests"] > 0, "the daemon has served no request"
    return document


def net_document() -> Any:
    """Of a daemon that has moved some frames, and has an uplink."""
    with tempfile.TemporaryDirectory() as scratch:
        one, two = Path(scratch, "one"), Path(scratch, "two")
        document = document_after(
            Path(scratch, "stats"),
            [sys.argv[3], "--port", f"one,socket={one}", "--port", f"two,socket={two}", "--uplink",
             "null"],
            [one, two], ["net", "--mode", "forward", "--socket", one, "--to-socket", two])
    assert document["ports"][1]["queues"][0]["to_guest"]["frames"] > 0, "no frame was moved"
    return document


def document_after(stats: Path, command: list[Any], sockets: list[Path], load: list[Any]) -> Any:
    """The last stats file of a daemon that has been under load."""
    daemon = subprocess.Popen([*command, "--stats-file", stats, "--stats-interval", "50ms"],
                              stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not all(socket.exists() for socket in sockets) and time.monotonic() < deadline:
            time.sleep(0.01)
        subprocess.run([sys.argv[2], *load, "--duration", "50ms", "--warmup", "0ms"], check=True,
                       stdout=subprocess.DEVNULL)
    finally:
        daemon.terminate()
        daemon.wait(10)
    return json.loads(stats.read_text())


if __name__ == "__main__":
    sys.exit(check(key_complaints, reason_complaints, error_complaints))
