"""VLANs of the switch: an access port is in one, a trunk in several and sees their tags."""

from __future__ import annotations

import network
from guest import Guest
from lab import Lab
from netdaemon import Port
from runner import promise

TAGGED = """
ip link set eth0 up
for vlan in 10 20; do
    ip link add link eth0 name eth0.$vlan type vlan id $vlan &&
    ip link set eth0.$vlan up &&
    ip addr add 10.0.$vlan.2/24 dev eth0.$vlan || exit 1
done
"""


@promise
def net_access_ports_are_kept_apart_and_a_trunk_carries_their_tags(lab: Lab) -> None:
    daemon = lab.net_daemon(Port(("vlan=10",)), Port(("trunk=10+20",)), Port(("vlan=20",)))
    first = lab.begin_to_boot(network.nic(daemon, 0), network.nic(daemon, 2))
    trunk = lab.begin_to_boot(network.nic(daemon, 1))
    for guest in (first, trunk):
        guest.wait_ready()
    # Nothing may be sent that we do not know of: no IPv6, and no address is looked up yet.
    for guest in (first, trunk):
        guest.run("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    first.run("ip link set eth0 up && ip addr add 10.0.10.1/24 dev eth0")
    first.run("ip link set eth1 up && ip addr add 10.0.20.1/24 dev eth1")
    trunk.run(TAGGED)
    for own, foreign, vlan in (("eth0", "eth1", 10), ("eth1", "eth0", 20)):
        apart = _received(first, foreign), _received(trunk, f"eth0.{30 - vlan}")
        arrived = _received(trunk, f"eth0.{vlan}")
        first.run(f"! arping -c 5 -w 5 -I {own} 10.0.{vlan}.99 >/dev/null")
        assert _received(trunk, f"eth0.{vlan}") >= arrived + 4, "broadcasts do not reach the trunk"
        assert (_received(first, foreign), _received(trunk, f"eth0.{30 - vlan}")) == apart
    for vlan in (10, 20):
        first.run(f"ping -c 1 -W 3 10.0.{vlan}.2 || ping -c 3 -W 2 10.0.{vlan}.2")
    # TCP's segments keep their tag, and their size.
    trunk.run("mkdir /srv && dd if=/dev/urandom of=/srv/data bs=1M count=2 2>/dev/null && httpd -h /srv")
    expected = trunk.run("sha256sum </srv/data")
    for vlan in (10, 20):
        fetch = f"timeout 30 wget -q -O - http://10.0.{vlan}.2/data | sha256sum"
        assert first.run(fetch, 40.0) == expected


def _received(guest: Guest, interface: str) -> int:
    return int(guest.run(f"cat /sys/class/net/{interface}/statistics/rx_packets"))
