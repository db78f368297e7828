#!/usr/bin/env python3
"""Looks at every frame that crosses an interface, and says whether its checksums are right.

  capture.py INTERFACE

Runs in the interface's network namespace until SIGTERM. Counts, as JSON on stdout, the TCP frames in each
direction whose checksum is complete and right ("good"), wrong ("bad"), or still to be computed
by the receiver ("partial"), which the kernel tells of a frame: then the field must hold the sum
of the pseudo-header (VIRTIO 1.3, 5.1.6.2). "wrong_partial" are those where it does not.
"large" frames are above 9216 bytes. The first line says that it has begun.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import threading
from collections import Counter

SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_CSUMNOTREADY = 1 << 3
ETH_P_ALL = 3
TCP = 6


def ones_sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_of(frame: bytes) -> tuple[bytes, bytes] | None:
    """The pseudo-header and the TCP segment; None if it is something else, or a fragment."""
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    packet = frame[14:]
    if ethertype == 0x0800 and packet[9] == TCP:
        length = struct.unpack_from("!H", packet, 2)[0]
        segment = packet[(packet[0] & 15) * 4 : length]
        return packet[12:20] + struct.pack("!HH", TCP, len(segment)), segment
    if ethertype == 0x86DD and packet[6] == TCP:
        length = struct.unpack_from("!H", packet, 4)[0]
        segment = packet[40 : 40 + length]
        return packet[8:40] + struct.pack("!II", len(segment), TCP), segment
    return None


def judge(frame: bytes, partial: bool) -> str | None:
    found = tcp_of(frame)
    if found is None:
        return None
    pseudo, segment = found
    if not partial:
        return "good" if ones_sum(pseudo + segment) == 0xFFFF else "bad"
    field = struct.unpack_from("!H", segment, 16)[0]
    return "partial" if field == ones_sum(pseudo) else "wrong_partial"


def capture(interface: str, stopped: threading.Event) -> Counter[str]:
    source = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    source.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    source.bind((interface, ETH_P_ALL))
    source.settimeout(0.2)
    counts: Counter[str] = Counter()
    print("begun", flush=True)
    while not stopped.is_set():
        try:
            frame, extra, _, address = source.recvmsg(1 << 17, 256)
        except TimeoutError:
            continue
        status = next(struct.unpack_from("I", data)[0] for _, kind, data in extra if kind == PACKET_AUXDATA)
        verdict = judge(frame, bool(status & TP_STATUS_CSUMNOTREADY))
        direction = "sent" if address[2] == socket.PACKET_OUTGOING else "received"
        if verdict is not None:
            counts[f"{direction}/{verdict}"] += 1
            counts[f"{direction}/large"] += len(frame) > 9216
    return counts


def main() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    print(json.dumps(capture(sys.argv[1], stopped)))


if __name__ == "__main__":
    main()
