"""A guest moves from one QEMU to another under traffic; both are at ports of the same daemon."""

from __future__ import annotations

from dataclasses import replace

import migration
import network
from lab import Lab
from netdaemon import Port
from runner import promise

HOST = 1


@promise
def net_guest_moves_by_postcopy_under_traffic(lab: Lab) -> None:
    _move_under_traffic(lab, pairs=1)


@promise
def net_guest_with_two_queue_pairs_moves_by_postcopy(lab: Lab) -> None:
    _move_under_traffic(lab, pairs=2)


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
