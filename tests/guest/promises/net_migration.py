"""A guest moves from one QEMU to another under traffic.

By precopy it moves between two "hosts" on this one: a QEMU and a daemon each, whose uplinks are the
ports of one bridge. By postcopy both QEMUs are at ports of the same daemon.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import migration
import network
from guest import Machine
from lab import Lab
from namespace import Namespace
from netdaemon import Port
from network import End
from runner import promise

ANNOUNCEMENTS = Path(__file__).parent.parent / "announcements.py"
HOST = 1
PING_SECONDS = 0.1


@promise
def net_guest_moves_forth_and_back_under_tcp_and_ping(lab: Lab) -> None:
    namespace, machines = _two_hosts(lab)
    host = network.namespace_end(lab, namespace, HOST)
    end = network.guest_end(lab.start(machines[0]), HOST + 1)
    network.begin_traffic(end, host)
    log = lab.folder / "ping.log"
    ping = "busybox", "ping", "-i", str(PING_SECONDS), end.addresses[0]
    pings = lab.process(namespace.start(*ping, log=log))
    pauses = []
    for number in range(1, int(os.environ.get("VHOST_MOVES", "2")) + 1):
        guest, done = migration.move(lab, end.guest, machines[number % 2])
        pauses.append(done.downtime_ms)
        end = replace(end, place=guest)
        network.await_traffic(end, 60.0)
    pings.end()
    network.end_traffic(end)
    network.exchange(end, host)
    network.check_kernel(end.guest)
    print(f"{len(pauses)} moves, pauses in ms as QEMU measured them: {pauses}; "
          f"longest time between two answers to pings: {_longest_gap(log.read_text()):.1f} s")


@promise
def net_guest_that_moved_announces_itself(lab: Lab) -> None:
    assert _announced(lab) == {"arp"}, "by its own driver"


@promise
def net_guest_that_cannot_announce_itself_is_announced(lab: Lab) -> None:
    assert _announced(lab, "guest_announce=off") == {"rarp"}, "by QEMU and the daemon"


@promise
def net_guest_moves_by_postcopy_under_traffic(lab: Lab) -> None:
    _move_under_traffic(lab, pairs=1)


@promise
def net_guest_with_two_queue_pairs_moves_by_postcopy(lab: Lab) -> None:
    _move_under_traffic(lab, pairs=2)


def _two_hosts(lab: Lab, *properties: str) -> tuple[Namespace, list[Machine]]:
    namespace = lab.namespace()
    namespace.bridge(*network.namespace_addresses(HOST))
    machines = []
    for tap in ("tap0", "tap1"):
        daemon = lab.net_daemon(Port(), namespace=namespace, uplink=f"tap:{tap}")
        device = replace(network.nic(daemon, 0, 1, 0, *properties), mac=network.mac(1))
        machines.append(lab.net_machine(device, append=migration.KERNEL))
    return namespace, machines


def _announced(lab: Lab, *properties: str) -> set[str]:
    """How a guest that sends nothing by itself is announced where it comes to."""
    namespace, machines = _two_hosts(lab, *properties)
    end = network.guest_end(lab.start(machines[0]), HOST + 1)
    log = lab.folder / "announcements.log"
    lab.process(namespace.start(sys.executable, str(ANNOUNCEMENTS), "tap1", log=log))
    while "begun" not in log.read_text():
        time.sleep(0.02)
    guest, _ = migration.move(lab, end.guest, machines[1])
    deadline = time.monotonic() + 20
    while network.mac(1) not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    learned = namespace.run("bridge", "fdb", "show", "dev", "tap1")
    assert network.mac(1) in learned, "the network does not look for it here"
    network.check_kernel(guest)
    return set(re.findall(rf"^(\w+) {network.mac(1)}$", log.read_text(), re.MULTILINE))


def _longest_gap(report: str) -> float:
    """In seconds, between the questions of two answers."""
    answers = [int(number) for number in re.findall(r" seq=(\d+) ", report)]
    assert len(answers) > 10, report
    return max(later - earlier for earlier, later in zip(answers, answers[1:])) * PING_SECONDS


def _move_under_traffic(lab: Lab, pairs: int) -> None:
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    daemon = lab.net_daemon(Port(("postcopy",)), Port(("postcopy",)), namespace=namespace)
    host = network.namespace_end(lab, namespace, HOST)
    machines = [
        lab.net_machine(replace(network.nic(daemon, number, pairs), mac=network.mac(HOST + 1)))
        for number in (0, 1)
    ]
    end = network.guest_end(lab.start(machines[0]), HOST + 1)
    network.begin_traffic(end, host)
    for number in (1, 0):
        guest, _ = migration.move_by_postcopy(lab, end.guest, machines[number])
        end = replace(end, place=guest)
        network.await_traffic(end)
    network.end_traffic(end)
    network.ping(end, host)
    network.exchange(end, host)
    network.check_kernel(end.guest)
    daemon.check_alive()
