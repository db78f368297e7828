#!/usr/bin/env python3
"""Prints each frame on an interface by which a machine announces its address to the network.

  announcements.py INTERFACE

One line each: "rarp MAC" for RARP (ethertype 0x8035), "arp MAC" for an ARP in which sender and target
are the same address. The first line says that it has begun.
"""

from __future__ import annotations

import socket
import sys

ETH_P_ALL = 3
ARP = b"\x08\x06"
RARP = b"\x80\x35"


def announcement(frame: bytes) -> str | None:
    if frame[12:14] == RARP:
        return "rarp"
    if frame[12:14] == ARP and frame[28:32] == frame[38:42]:
        return "arp"
    return None


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw:
        raw.bind((sys.argv[1], ETH_P_ALL))
        print("begun", flush=True)
        while True:
            frame = raw.recv(65536)
            if kind := announcement(frame):
                print(kind, frame[6:12].hex(":"), flush=True)


if __name__ == "__main__":
    main()
