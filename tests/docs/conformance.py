#!/usr/bin/env python3
"""docs/conformance.md is complete and true: a row for every message and bit, each offered exactly
where it says, each file and test that it names there. So are the tests that docs/guests.md names.

  conformance.py VHOST_USER_BLK VHOST_BENCH VHOST_USER_NET

What is offered is asked of daemons, in several configurations: a row with a condition must be
offered in some of them and not in all.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pages import TOP, check, table_rows

PAGE = TOP / "docs/conformance.md"
GUESTS = TOP / "docs/guests.md"

# The numbers that the specifications give, by table.
NUMBERS = {
    "Messages from the front-end": {*range(1, 46)},
    "Messages to the front-end": {*range(1, 11)},
    "Protocol features": {*range(24)},
    "Feature bits of the transport": {24, 26, 27, 28, 29, 30, *range(32, 42)},
    "Feature bits of block devices": {0, 1, 2, 4, 5, 6, 7, *range(9, 18)},
    "Feature bits of network devices": {0, 1, 2, 3, *range(5, 24), *range(50, 58), *range(59, 64)},
}
FRONT, BACK, PROTOCOL, TRANSPORT, BLK, NET = NUMBERS
DEVICE_BITS = {*range(24), *range(50, 64)}  # VIRTIO 2.2

WHO = {"both": {"blk", "net"}, "blk": {"blk"}, "net": {"net"}, "no": set()}
TEST = re.compile(r"[A-Z]\w*\.[A-Z]\w*")
PROMISE = re.compile(r"[a-z0-9]+(_[a-z0-9]+){2,}")
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Claim:
    always: frozenset[str]  # The programs that offer it in every configuration.
    sometimes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    table: str
    number: int
    name: str
    offered: str
    where: str
    shown: str

    @property
    def place(self) -> str:
        return f"{PAGE.name}, {self.table}, {self.number} {self.name}"

    @property
    def claim(self) -> Claim:
        who, _, condition = self.offered.partition(", ")
        programs = WHO.get(who, set())
        limited = {"net"} if condition.startswith("net: ") else programs if condition else set()
        return Claim(frozenset(programs - limited), frozenset(limited))


@cache
def rows(table: str) -> dict[int, Row]:
    header, *cells = table_rows(PAGE, f"## {table}")
    return {int(row[0]): Row(table, int(row[0]), *row[1:]) for row in cells
            if len(row) == len(header)}


def all_rows() -> list[Row]:
    return [row for table in NUMBERS for row in rows(table).values()]


def source(path: str) -> str:
    return (TOP / path).read_text()


def body(path: str, opening: str) -> str:
    """What follows `opening` up to the brace in the first column that ends it."""
    return source(path).split(opening, 1)[1].split("\n}", 1)[0]


def constants(path: str, opening: str) -> dict[str, int]:
    """The names in an enumeration, or in a namespace of bit numbers or masks."""
    found = re.findall(r"(\w+) = (?:1ULL << )?(\d+)[,;]", body(path, opening))
    return {name: int(number) for name, number in found}


def requests() -> dict[str, int]:
    return constants("libvhost/wire/protocol.hpp", "enum class Request :")


def backend_requests() -> dict[str, int]:
    return constants("libvhost/wire/protocol.hpp", "enum class BackendRequest :")


def protocol_features() -> dict[str, int]:
    return constants("libvhost/wire/protocol.hpp", "namespace protocol_feature {")


def completeness_complaints() -> list[str]:
    complaints = []
    for table, numbers in NUMBERS.items():
        header, *cells = table_rows(PAGE, f"## {table}")
        listed = [int(row[0]) for row in cells]
        complaints += [f"{PAGE.name}, {table}: no row for {number}"
                       for number in sorted(numbers - set(listed))]
        if listed != sorted(set(listed)):
            complaints.append(f"{PAGE.name}, {table}: the rows are not in ascending order")
        complaints += [f"{PAGE.name}, {table}: row {row[0]} has {len(row)} cells"
                       for row in cells if len(row) != len(header)]
    return complaints


def name_complaints() -> list[str]:
    """What the source has a name for is called so in the page."""
    complaints = []
    for table, names in (
            (FRONT, named(requests())), (BACK, named(backend_requests())),
            (PROTOCOL, spelled("libvhost/session/feature_names.cpp", "protocol_feature",
                               protocol_features())),
            (TRANSPORT, spelled("libvhost/session/feature_names.cpp", "feature",
                                constants("libvhost/wire/protocol.hpp", "namespace feature {"))),
            (BLK, spelled("backends/blk/stats_document.cpp", "feature",
                          constants("backends/blk/virtio_blk.hpp", "namespace feature {"))),
            (NET, spelled("backends/net/daemon/stats_document.cpp", "feature",
                          constants("backends/net/frame/virtio_net.hpp", "namespace feature {")))):
        if not names:
            complaints.append(f"{table}: the source has no names")
        for number, name in names.items():
            row = rows(table).get(number)
            if row is None or row.name.removesuffix("_MSG") != name.removesuffix("_MSG"):
                complaints.append(f"{PAGE.name}, {table}: {number} is {name}")
    return complaints


def named(numbers: dict[str, int]) -> dict[int, str]:
    return {number: name.upper() for name, number in numbers.items()}


def spelled(path: str, space: str, numbers: dict[str, int]) -> dict[int, str]:
    """As the daemons spell bits for operators; a bit without a spelling has its own name."""
    spelling = dict(re.findall(rf'\{{{space}::(\w+), "(\w+)"\}}', source(path)))
    return {number: spelling.get(name, name) for name, number in numbers.items()}


def citation_complaints() -> list[str]:
    """Whoever offers says where and shows it; the others say why not. All that is cited exists."""
    complaints = []
    for row in all_rows():
        files, cited = CODE.findall(row.where), CODE.findall(row.shown)
        offered = row.offered != "no"
        if row.offered.partition(", ")[0] not in WHO:
            complaints.append(f"{row.place}: offered by '{row.offered}'")
        if offered != bool(files) or offered != bool(cited):
            complaints.append(f"{row.place}: files and tests belong to what is offered, and only "
                              "there")
        if not offered and len(row.shown) < 10:
            complaints.append(f"{row.place}: no reason")
        complaints += [f"{row.place}: there is no file {name}"
                       for name in files if not (TOP / name).is_file()]
        complaints += [f"{row.place}: there is no test {name}"
                       for name in cited if name not in tests()]
    for page in (PAGE, GUESTS):
        names = CODE.findall(page.read_text())
        complaints += [f"{page.name}: there is no test {name}" for name in names
                       if (TEST.fullmatch(name) or PROMISE.fullmatch(name)) and name not in tests()]
        complaints += [f"{page.name}: there is no {name}" for name in names
                       if "/" in name and not (TOP / name).exists()]
    return complaints


@cache
def tests() -> set[str]:
    found = set()
    for path in (TOP / "tests").rglob("*_test.cpp"):
        for suite, name in re.findall(r"^(?:TYPED_)?TEST(?:_[FP])?\((\w+),\s*(\w+)\)",
                                      path.read_text(), re.M):
            found.add(f"{suite}.{name}")
    for path in (TOP / "tests/guest/promises").glob("*.py"):
        found |= set(re.findall(r"^@promise.*\ndef (\w+)", path.read_text(), re.M))
    return found


def offer_complaints() -> list[str]:
    """Bits are offered where the page says, and nowhere else."""
    complaints = []
    for table, which, mask in ((PROTOCOL, 1, {*range(64)}), (TRANSPORT, 0, {*range(24, 50)}),
                               (BLK, 0, DEVICE_BITS), (NET, 0, DEVICE_BITS)):
        programs = {BLK: ["blk"], NET: ["net"]}.get(table, ["blk", "net"])
        claims = {number: claimed_by(row.claim, programs) for number, row in rows(table).items()}
        found = {number: claim_of(number, which, programs) for number in mask}
        complaints += [f"{PAGE.name}, {table}: bit {number} is offered {said(found[number])}, not "
                       f"{said(claims.get(number, Claim(frozenset())))}"
                       for number in sorted(mask)
                       if found[number] != claims.get(number, Claim(frozenset()))]
    return complaints


def claimed_by(claim: Claim, programs: list[str]) -> Claim:
    return Claim(claim.always & {*programs}, claim.sometimes & {*programs})


def claim_of(number: int, which: int, programs: Iterable[str]) -> Claim:
    """What the daemons make true; of postcopy, where we may not have it, what the page says."""
    if (which, number) == (1, protocol_features()["pagefault"]) and not may_postcopy():
        return rows(PROTOCOL)[number].claim
    has = {program: [bool(masks[which] >> number & 1) for masks in offers()[program]]
           for program in programs}
    return Claim(frozenset(program for program in has if all(has[program])),
                 frozenset(program for program in has
                           if any(has[program]) and not all(has[program])))


def said(claim: Claim) -> str:
    words = [*sorted(claim.always), *(f"{program} in part" for program in sorted(claim.sometimes))]
    return "by " + (" and ".join(words) or "nobody")


def message_complaints() -> list[str]:
    """A message is served where its protocol feature is offered, if it is in the table of requests;
    one to the front-end, if the session sends it."""
    rules = dict(re.findall(r"RequestRule\{Request::(\w+),.*?(needs\(\w+::\w+\)|Gate::\w+),",
                            source("libvhost/session/request_table.hpp")))
    everybody, nobody = Claim(frozenset(WHO["both"])), Claim(frozenset())
    served = {}
    for name, gate in rules.items():
        feature = re.fullmatch(r"needs\(protocol_feature::(\w+)\)", gate)
        served[requests()[name]] = (claim_of(protocol_features()[feature[1]], 1, WHO["both"])
                                    if feature else everybody)
    complaints = [f"{row.place}: served {said(served.get(row.number, nobody))}"
                  for row in rows(FRONT).values() if row.claim != served.get(row.number, nobody)]

    session = "".join(path.read_text() for path in (TOP / "libvhost/session").glob("*.cpp"))
    channel = claim_of(protocol_features()["backend_req"], 1, WHO["both"])
    sent = {backend_requests()[name]: channel
            for name in re.findall(r"BackendRequest::(\w+)", session)}
    sent[backend_requests()["config_change"]] = Claim(frozenset(
        program for program in WHO["both"]
        if any("notify_config_change" in path.read_text()
               for path in (TOP / "backends" / program).rglob("*.cpp"))))
    complaints += [f"{row.place}: sent {said(sent.get(row.number, nobody))}"
                   for row in rows(BACK).values() if row.claim != sent.get(row.number, nobody)]
    return complaints


@cache
def offers() -> dict[str, list[tuple[int, int]]]:
    """The feature bits and protocol features of several configurations of each daemon."""
    with tempfile.TemporaryDirectory() as folder:
        image, one, two = (Path(folder, name) for name in ("disk", "one", "two"))
        with image.open("wb") as file:
            file.truncate(1 << 20)
        disk = [sys.argv[1], "--socket-path", one, "--blk-file", image, "--queues"]
        flag, key = (["--postcopy"], ",postcopy") if may_postcopy() else ([], "")
        ports = ["--port", f"one,socket={one}", "--port",
                 f"two,socket={two},config,mac=52:54:00:00:00:01{key}"]
        return {
            "blk": asked([*disk, "4"], [one]) + asked([*disk, "1", "--read-only", *flag], [one]),
            "net": asked([sys.argv[3], *ports], [one, two]),
        }


def may_postcopy() -> bool:
    """As docs/postcopy.md says."""
    allowed = Path("/proc/sys/vm/unprivileged_userfaultfd")
    return (os.geteuid() == 0 or os.access("/dev/userfaultfd", os.R_OK | os.W_OK)
            or (allowed.is_file() and allowed.read_text().strip() == "1"))


def asked(command: list[Any], sockets: list[Path]) -> list[tuple[int, int]]:
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        return [features(path) for path in sockets]
    finally:
        daemon.terminate()
        daemon.wait(10)


def features(path: Path) -> tuple[int, int]:
    """The answers to GET_FEATURES and GET_PROTOCOL_FEATURES."""
    numbers = requests()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connect(connection, path)
        answers = []
        for name in ("get_features", "get_protocol_features"):
            connection.sendall(struct.pack("=III", numbers[name], 1, 0))
            reply = connection.recv(20, socket.MSG_WAITALL)
            answers.append(struct.unpack("=IIIQ", reply)[3])
        return answers[0], answers[1]


def connect(connection: socket.socket, path: Path) -> None:
    """As soon as somebody listens."""
    deadline = time.monotonic() + 10
    while error := connection.connect_ex(str(path)):
        if time.monotonic() > deadline:
            raise OSError(error, f"nobody listens on {path}")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(check(completeness_complaints, name_complaints, citation_complaints, offer_complaints,
                   message_complaints))
