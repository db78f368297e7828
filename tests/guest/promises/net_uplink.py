"""A guest and the host: the daemon's uplink is in a network namespace, mostly a TAP."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import network
from lab import Lab
from namespace import Namespace
from netdaemon import NetDaemon, Port
from network import End
from runner import promise

CAPTURE = Path(__file__).parent.parent / "capture.py"
HOST = 1


@promise
def net_guest_and_tap_ping_and_move_tcp_both_ways_over_both_families(lab: Lab) -> None:
    _, host, guest, _ = _guest_at_tap(lab)
    network.ping(guest, host)
    network.ping(host, guest, size=1400)
    network.exchange(guest, host)
    network.check_kernel(guest.guest)


@promise
def net_guest_and_tap_use_an_mtu_of_9000(lab: Lab) -> None:
    _, host, guest, _ = _guest_at_tap(lab, "host_mtu=9000", mtu=9000)
    network.ping(guest, host, size=8952)
    network.exchange(guest, host)


@promise
def net_frames_between_guest_and_tap_have_right_checksums(lab: Lab) -> None:
    namespace, host, guest, _ = _guest_at_tap(lab)
    with _captured(lab, namespace, "whole") as counts:
        network.exchange(guest, host)
    _all_right(counts)
    assert counts["received/large"] > 0, "the guest's segments reach the host in one piece"
    assert counts["sent/large"] > 0, "and the host's the guest"
    # Now every frame of the kernel's is complete, and of one segment.
    namespace.run("ethtool", "-K", namespace.interface, "tx", "off", "tso", "off", "gso", "off")
    guest.run("ethtool -K eth0 tx off")
    with _captured(lab, namespace, "summed") as counts:
        network.exchange(guest, host)
    _all_right(counts)
    assert counts["sent/good"] > 100 and counts["received/good"] > 100, counts
    assert counts["sent/partial"] == counts["received/partial"] == 0, counts
    assert counts["sent/large"] == counts["received/large"] == 0, counts


@promise
def net_guest_without_offloads_gets_the_taps_frames_cut_and_summed(lab: Lab) -> None:
    off = ("csum=off", "guest_csum=off", "guest_tso4=off", "guest_tso6=off", "guest_ecn=off", "guest_ufo=off")
    namespace, host, guest, daemon = _guest_at_tap(lab, *off)
    with _captured(lab, namespace, "plain") as counts:
        network.exchange(guest, host)
    _all_right(counts)
    assert counts["sent/large"] > 0, counts
    daemon.wait_for(lambda: daemon.count(0, "to_guest", "segmented") > 0, "frames were cut")
    daemon.wait_for(lambda: daemon.count(0, "to_guest", "summed") > 0, "frames were summed")
    assert guest.run("awk '/^Tcp: [0-9]/ { print $NF }' /proc/net/snmp") == "0", "bad checksums"


@promise
def net_frames_to_an_uplink_without_offloads_are_cut_and_summed(lab: Lab) -> None:
    namespace = lab.namespace(*network.namespace_addresses(HOST), pair=True)
    daemon = lab.net_daemon(Port(), namespace=namespace)
    host = network.namespace_end(lab, namespace, HOST)
    guest = network.guest_end(lab.begin_to_boot(network.nic(daemon, 0)), HOST + 1)
    network.ping(guest, host, size=1400)
    with _captured(lab, namespace, "pair") as counts:
        network.exchange(guest, host)
    _all_right(counts)
    assert counts["received/good"] > 100 and counts["received/partial"] == 0, counts
    assert counts["received/large"] == 0, counts
    daemon.wait_for(
        lambda: daemon.count(0, "from_guest", "size_classes/longer") > 0, "the guest leaves it to us"
    )


@promise
def net_guest_with_two_queue_pairs_reaches_a_tap_with_two_queues(lab: Lab) -> None:
    namespace = lab.namespace(*network.namespace_addresses(HOST), queues=2)
    daemon = lab.net_daemon(Port(), namespace=namespace, arguments=("--workers", "2"))
    host = network.namespace_end(lab, namespace, HOST)
    guest = network.guest_end(lab.begin_to_boot(network.nic(daemon, 0, 2), cpus=2), HOST + 1)
    guest.run("ethtool -L eth0 combined 2")
    network.exchange(guest, host)
    network.exchange(guest, host)
    network.check_kernel(guest.guest)


@promise
def net_second_guest_joins_and_leaves_while_the_first_transfers(lab: Lab) -> None:
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    daemon = lab.net_daemon(Port(), Port(), namespace=namespace)
    host = network.namespace_end(lab, namespace, HOST)
    first = network.guest_end(lab.begin_to_boot(network.nic(daemon, 0)), HOST + 1)
    network.begin_traffic(first, host)
    second = network.guest_end(lab.begin_to_boot(network.nic(daemon, 1)), HOST + 2)
    network.ping(second, first)
    network.exchange(second, host)
    network.exchange(second, first)
    network.await_traffic(first)
    second.guest.qemu.end()
    network.await_traffic(first)
    network.end_traffic(first)
    network.exchange(first, host)


def _guest_at_tap(lab: Lab, *properties: str, mtu: int = 1500) -> tuple[Namespace, End, End, NetDaemon]:
    namespace = lab.namespace(*network.namespace_addresses(HOST), mtu=mtu)
    daemon = lab.net_daemon(Port(), namespace=namespace)
    host = network.namespace_end(lab, namespace, HOST)
    device = network.nic(daemon, 0, 1, 0, *properties)
    guest = network.guest_end(lab.begin_to_boot(device), HOST + 1, mtu)
    return namespace, host, guest, daemon


@contextmanager
def _captured(lab: Lab, namespace: Namespace, name: str) -> Iterator[dict[str, int]]:
    """The counts of capture.py over the block, filled in at its end."""
    log = lab.folder / f"capture-{name}.log"
    process = lab.process(namespace.start(sys.executable, str(CAPTURE), namespace.interface, log=log))
    while "begun" not in log.read_text():
        assert process.status() is None, log.read_text()
        time.sleep(0.02)
    counts: dict[str, int] = dict.fromkeys(
        (f"{direction}/{kind}" for direction in ("sent", "received")
         for kind in ("good", "bad", "partial", "wrong_partial", "large")), 0,
    )
    yield counts
    process.signal(signal.SIGTERM)
    process.wait(10.0)
    counts.update(json.loads(log.read_text().splitlines()[-1]))


def _all_right(counts: dict[str, int]) -> None:
    wrong = {name: count for name, count in counts.items() if "bad" in name or "wrong" in name}
    assert not any(wrong.values()), counts
    assert counts["received/good"] + counts["received/partial"] > 0, counts
    assert counts["sent/good"] + counts["sent/partial"] > 0, counts
