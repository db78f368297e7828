"""Guests that reboot or are killed under traffic, daemons that are restarted, and who connects."""

from __future__ import annotations

from dataclasses import replace

import network
from lab import Lab
from netdaemon import Port
from network import End
from nic import Nic
from runner import promise


@promise
def net_guest_that_reboots_or_dies_under_traffic_costs_the_other_only_frames(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(), Port())
    nics = [network.nic(daemon, number) for number in (0, 1)]
    one, other = network.two_guests(lab, *nics)
    for end_guest in (_reboot, _reset, _kill):
        network.begin_traffic(one, other)
        other = end_guest(lab, other, nics[1])
        network.end_traffic(one)
        network.ping(one, other)
        network.exchange(one, other)
    network.check_kernel(one.guest)
    daemon.check_alive()


@promise
def net_guests_go_on_after_the_daemon_was_ended_or_killed_under_traffic(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(), Port())
    one, other = network.two_guests(
        lab, *(network.nic(daemon, number, 1, 1) for number in (0, 1))
    )
    network.begin_traffic(one, other)
    for end in (daemon.terminate, daemon.kill):
        end()
        daemon.start()
        network.await_traffic(one)
    network.end_traffic(one)
    network.exchange(one, other)
    for guest in (one.guest, other.guest):
        network.check_kernel(guest)


@promise
def net_daemon_connects_to_guests_that_were_there_before_it_and_that_come_later(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(client=True), Port(client=True))
    nics = [replace(network.nic(daemon, number), server=True) for number in (0, 1)]
    one, other = network.two_guests(lab, *nics)
    network.exchange(one, other)
    daemon.terminate()
    daemon.start()
    network.ping(one, other)
    network.exchange(one, other)


def _reboot(lab: Lab, end: End, nic: Nic) -> End:
    del lab, nic
    end.guest.restart("reboot -f")
    return _set_up_again(end)


def _reset(lab: Lab, end: End, nic: Nic) -> End:
    del lab, nic
    end.guest.restart()
    return _set_up_again(end)


def _kill(lab: Lab, end: End, nic: Nic) -> End:
    end.guest.qemu.end()
    return network.guest_end(lab.begin_to_boot(nic), end.number)


def _set_up_again(end: End) -> End:
    network.serve(end)
    return end
