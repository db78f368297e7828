#!/usr/bin/env python3
"""Fails if a file includes something that its room must not know (docs/architecture.md, "Rooms").

usage: check_rooms.py [ROOT]
"""
import pathlib
import re
import sys

# room: rooms that it may include from, besides itself
ROOMS = {
    "libvhost/wire": [],
    "libvhost/memory": ["libvhost/wire"],
    "libvhost/ring": ["libvhost/memory", "libvhost/wire"],
    "libvhost/session": ["libvhost/wire", "libvhost/memory", "libvhost/ring"],
    "libvhost/frontend": ["libvhost/wire", "libvhost/memory", "libvhost/ring"],
    "common": ["libvhost"],
    "backends/blk": ["libvhost", "common"],
    "backends/net/frame": ["libvhost", "common"],
    "backends/net/eal": ["libvhost", "common"],
    "backends/net/forwarding": ["libvhost", "common", "backends/net/frame", "backends/net/eal"],
    "backends/net/guest": [
        "libvhost", "common", "backends/net/frame", "backends/net/forwarding"],
    "backends/net/uplink": [
        "libvhost", "common", "backends/net/frame", "backends/net/forwarding", "backends/net/eal"],
    "backends/net/daemon": ["libvhost", "common", "backends/net"],
    "tools": ["libvhost", "common"],
    "examples": ["libvhost"],
}
# headers of other projects: the rooms that may include them
FOREIGN = {
    r"spdlog/|fmt/|CLI/|nlohmann/": ["common", "backends", "tools"],
    r"liburing": ["backends/blk", "tools"],
    r"rte_": ["backends/net/eal", "backends/net/forwarding", "backends/net/uplink"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def inside(path, rooms):
    return any(path == room or path.startswith(room + "/") for room in rooms)


def complaint(room, header, root):
    for pattern, allowed in FOREIGN.items():
        if re.match(pattern, header) and not inside(room, allowed):
            return f"{header} is not for this room"
    own = (root / header).is_file() or inside(header, ["libvhost", "common", "backends", "tests"])
    if own and not inside(header, [room, *ROOMS[room]]):
        return f"{room} may not know {header}"
    return None


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    seen, wrong = 0, []
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.[hc]pp")):
            for header in INCLUDE.findall(file.read_text()):
                seen += 1
                if why := complaint(room, header, root):
                    wrong.append(f"{file}: {why}")
    print("\n".join(wrong) or f"{seen} includes keep to the rooms")
    return 1 if wrong or seen == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
