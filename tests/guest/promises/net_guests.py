"""Two guests on one daemon: they find each other and move data, whatever the driver accepts."""

from __future__ import annotations

import network
from lab import Lab
from netdaemon import NetDaemon, Port
from network import End
from runner import promise

# A frame above the largest size class of frames on a wire can only be one for segmentation.
LARGE = "size_classes/longer"


@promise
def net_guests_ping_and_move_tcp_both_ways_over_both_families(lab: Lab) -> None:
    daemon, one, other = _pair(lab)
    network.ping(one, other)
    network.ping(other, one, size=1400)
    network.exchange(one, other)
    _segments_untouched(daemon)


@promise
def net_guests_use_an_mtu_of_9000(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(), Port())
    nics = [network.nic(daemon, number, 1, 0, "host_mtu=9000") for number in (0, 1)]
    one, other = network.two_guests(lab, *nics, mtu=9000)
    assert one.run("cat /sys/class/net/eth0/mtu") == "9000"
    network.ping(one, other, size=8972 - 20)  # The same for both families: IPv6's header is longer.
    one.run("ethtool -K eth0 tso off gso off")
    network.exchange(one, other)
    daemon.wait_for(lambda: daemon.count(1, "to_guest", "size_classes/9216") > 20, "large frames")


@promise
def net_legacy_driver_reaches_a_modern_one(lab: Lab) -> None:
    _works_with(lab, "disable-modern=on", "disable-legacy=off")


@promise
def net_driver_without_mergeable_buffers_gets_every_frame(lab: Lab) -> None:
    _works_with(lab, "mrg_rxbuf=off")


@promise
def net_driver_without_mergeable_and_large_buffers_gets_every_frame(lab: Lab) -> None:
    daemon = _works_with(lab, "mrg_rxbuf=off", "guest_tso4=off", "guest_tso6=off", "guest_ufo=off")
    daemon.wait_for(lambda: daemon.count(0, "to_guest", "segmented") > 0, "frames were cut")


@promise
def net_driver_with_the_plainest_rings_gets_every_frame(lab: Lab) -> None:
    _works_with(lab, "event_idx=off", "indirect_desc=off")


@promise
def net_driver_without_event_index_reaches_one_without_indirect_descriptors(lab: Lab) -> None:
    _works_with(lab, "event_idx=off", other=("indirect_desc=off",))


@promise
def net_driver_with_the_largest_rings_reaches_a_device_that_is_only_modern(lab: Lab) -> None:
    daemon, one, other = _pair(
        lab, "rx_queue_size=1024", "tx_queue_size=1024", other=("disable-legacy=on",)
    )
    for end, size in ((one, 1024), (other, 256)):
        told = end.run("ethtool -g eth0").split()
        assert told.count(str(size)) == 4, told  # What is possible and what is, of both rings.
    _moves(one, other)


@promise
def net_driver_with_packed_rings_gets_every_frame(lab: Lab) -> None:
    daemon = _works_with(lab, "packed=on")
    features = daemon.stats()["ports"][0]["connection"]["features"]
    assert "VIRTIO_F_RING_PACKED" in features, features


@promise
def net_guests_change_their_queue_pairs_under_traffic(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(("queues=2",)), Port(("queues=2",)), arguments=("--workers", "2"))
    nics = [network.nic(daemon, number, 2) for number in (0, 1)]
    one, other = network.two_guests(lab, *nics, cpus=2)
    network.begin_traffic(one, other)
    for pairs in (2, 1, 2):
        for end in (one, other):
            end.run(f"ethtool -L eth0 combined {pairs}")
        network.await_traffic(one)
    network.end_traffic(one)
    network.exchange(one, other)
    _check_kernels(one, other)


def _pair(
    lab: Lab, *properties: str, other: tuple[str, ...] = ()
) -> tuple[NetDaemon, End, End]:
    """The first guest's device has these properties, the second's the others."""
    daemon = lab.net_daemon(Port(), Port())
    nics = network.nic(daemon, 0, 1, 0, *properties), network.nic(daemon, 1, 1, 0, *other)
    return daemon, *network.two_guests(lab, *nics)


def _works_with(lab: Lab, *properties: str, other: tuple[str, ...] = ()) -> NetDaemon:
    daemon, *ends = _pair(lab, *properties, other=other)
    _moves(*ends)
    return daemon


def _moves(one: End, other: End) -> None:
    network.ping(one, other, size=1400)
    network.exchange(one, other)
    _check_kernels(one, other)


def _check_kernels(*ends: End) -> None:
    for end in ends:
        network.check_kernel(end.guest)


def _segments_untouched(daemon: NetDaemon) -> None:
    """What one guest sends in one piece reaches the other in one piece."""
    for port in (0, 1):
        daemon.wait_for(lambda: daemon.count(port, "from_guest", LARGE) > 0, "large segments came")
        daemon.wait_for(lambda: daemon.count(port, "to_guest", LARGE) > 0, "large segments went")
        assert daemon.count(port, "to_guest", "segmented") == 0
        assert daemon.count(port, "to_guest", "summed") == 0
