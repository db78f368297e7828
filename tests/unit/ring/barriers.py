#!/usr/bin/env python3
"""Do the rings' orders stand in the instructions that the compiler made?

  barriers.py OBJDUMP LIBRARY ARCHITECTURE

A test that runs a ring finds what the CPU under it breaks, and only if both sides come to the spot
in the same few nanoseconds. x86 breaks nothing but the order of a store and a later load, and an
emulator on x86 does not either. This looks for the instructions (libvhost/ring/barrier.hpp) where
the heads of the rings say that they are.
"""

from __future__ import annotations

import re
import subprocess
import sys

LINES = r"(?:.*\n){0,6}?.*"  # The compiler may put a few others in between.
INSTRUCTIONS = {
    "x86_64": {
        "acquire": r"\bmov",
        "release": r"\bmov",
        "full": r"\block\b|\bmfence\b",
        "load": r"\bmov",
    },
    "aarch64": {
        "acquire": r"\bldap?rh?\b",
        "release": r"\bstlrh?\b",
        "full": r"\bdmb\s+ish$",
        "load": r"\bldrh?\b",
    },
    "riscv64": {
        "acquire": rf"\bl[hwd]u?\b.*\n{LINES}\bfence\s+r,rw",
        "release": rf"\bfence\s+rw,w\b.*\n{LINES}\bs[hwd]\b",
        "full": r"\bfence(\s+rw,rw)?$",
        "load": r"\bl[hwd]u?\b",
    },
}
# What stands in a function, in this order.
ORDERS = {
    "vhost::SplitRing::available_index() const": ("acquire",),
    "vhost::SplitRing::publish()": ("release", "full", "load"),
    "vhost::SplitRing::arm_kick()": ("full", "acquire|available_index"),
    "vhost::PackedRing::pop(vhost::Chain&, vhost::GuestView::Reading&)": ("acquire",),
    "vhost::PackedRing::publish()": ("release", "full", "load"),
    "vhost::PackedRing::arm_kick()": ("full", "acquire"),
    "vhost::frontend::PackedDriverRing::arm_calls()": ("full", "acquire"),
}


def main() -> int:
    objdump, library, architecture = sys.argv[1:]
    text = subprocess.run(
        [objdump, "-d", "-r", "-C", "--no-show-raw-insn", library],
        capture_output=True, text=True, check=True,
    ).stdout
    text = re.sub(r"\n\n[0-9a-f]+ <\.\w+>:\n", "\n", text)  # RISC-V keeps labels within functions.
    complaints = [
        f"{function} has not, in this order: {', '.join(orders)}"
        for function, orders in ORDERS.items()
        if not stand_in(text, function, orders, INSTRUCTIONS[architecture])
    ]
    print("\n".join(complaints))
    return 1 if complaints else 0


def stand_in(text: str, function: str, orders: tuple[str, ...], known: dict[str, str]) -> bool:
    body = re.search(rf"^[0-9a-f]+ <{re.escape(function)}>:\n(.*?)\n\n", text, re.M | re.S)
    wanted = r"[\s\S]*?".join(
        f"(?:{'|'.join(known.get(word, word) for word in order.split('|'))})" for order in orders
    )
    return body is not None and re.search(wanted, body[1], re.M) is not None


if __name__ == "__main__":
    sys.exit(main())
