"""Checksums and segmentation that one end asks for and the other cannot take, and the reverse."""

from __future__ import annotations

import network
from lab import Lab
from netdaemon import NetDaemon, Port
from runner import promise

WITHOUT = ("guest_csum=off", "guest_tso4=off", "guest_tso6=off", "guest_ecn=off", "guest_ufo=off")
# Each on top of those before.
SWITCHES = (
    "rx-gro-hw off", "gro off", "gso off", "tso off", "tx off",
    "tx on", "tso on gso on", "rx-gro-hw on gro on",
)


@promise
def net_tcp_works_with_each_offload_switched_off_and_on_again(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(), Port())
    one, other = network.two_guests(lab, network.nic(daemon, 0), network.nic(daemon, 1))
    for switch in SWITCHES:
        one.run(f"ethtool -K eth0 {switch}")
        network.exchange(one, other)
    assert daemon.count(1, "to_guest", "segmented") == 0, "both accept what the other sends"


@promise
def net_driver_without_offloads_gets_frames_cut_and_summed(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(), Port())
    plain = network.nic(daemon, 0, 1, 0, *WITHOUT)
    one, other = network.two_guests(lab, plain, network.nic(daemon, 1))
    for family in (0, 1):
        before = [_count(daemon, counter) for counter in ("segmented", "summed")]
        network.fetch(one, other, (family,))
        daemon.wait_for(lambda: _count(daemon, "segmented") > before[0], "frames were cut")
        daemon.wait_for(lambda: _count(daemon, "summed") > before[1], "frames were summed")
    network.fetch(other, one)
    # The guest looks at the checksums itself: a wrong one would be in its statistics.
    assert one.run("awk '/^Tcp: [0-9]/ { print $NF }' /proc/net/snmp") == "0"
    assert daemon.count(1, "to_guest", "segmented") == 0


def _count(daemon: NetDaemon, counter: str) -> int:
    return daemon.count(0, "to_guest", counter)
