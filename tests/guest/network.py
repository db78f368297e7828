"""Guests on a network, and what they send each other.

Two guests, or a guest and a namespace, are ends of the same kind: they run shell scripts, have an
address of each family and serve files by HTTP (busybox httpd, which listens on both). A transfer
is a file of random bytes fetched by the other end, whose sum must be the sender's. Everything is
bounded by busybox's timeout, for a lost connection alone would end no transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from guest import Guest
from lab import Lab
from namespace import Namespace
from netdaemon import NetDaemon
from nic import Nic

MEBIBYTE = 1 << 20
SERVE = "mkdir -p {folder} && dd if=/dev/urandom of={folder}/data bs=1M count={mebibytes} 2>/dev/null"
# In the loop too a broken transfer is only tried again; the file counts those that were good.
FETCH_ON_AND_ON = """
rm -f /run/fetched /run/fetch.stop; touch /run/fetched
(while ! test -e /run/fetch.stop; do
    sum=$(timeout 5 wget -q -O - {url} | sha256sum)
    if test "$sum" = "{sum}"; then echo good >>/run/fetched; else sleep 0.1; fi
done) >/dev/null 2>&1 &
"""


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


def nic(daemon: NetDaemon, number: int, queues: int = 1, reconnect: int = 0, *properties: str) -> Nic:
    """A device at the daemon's port of this number."""
    return Nic(
        daemon.sockets[number], mac(number + 1), queues, reconnect_seconds=reconnect,
        properties=properties,
    )


@dataclass(frozen=True)
class End:
    """One end of the wire: a guest's eth0, or the TAP in a namespace. Numbers begin at 1."""

    place: Guest | Namespace
    number: int
    folder: str

    @property
    def addresses(self) -> tuple[str, str]:
        return f"10.0.0.{self.number}", f"fd00::{self.number:x}"

    @property
    def guest(self) -> Guest:
        assert isinstance(self.place, Guest)
        return self.place

    def run(self, script: str, timeout_seconds: float = 30.0) -> str:
        if isinstance(self.place, Guest):
            return self.place.run(script, timeout_seconds)
        # The same programs as in the guest.
        shell = ("busybox", "sh", "-c", script)
        return self.place.run(*shell, timeout_seconds=timeout_seconds).rstrip("\n")

    def urls(self) -> tuple[str, str]:
        first, second = self.addresses
        return f"http://{first}/data", f"http://[{second}]/data"


def guest_end(guest: Guest, number: int, mtu: int = 1500, mebibytes: int = 2) -> End:
    """Waits for the guest's boot, gives eth0 its addresses, and serves a file."""
    guest.wait_ready()
    end = End(guest, number, "/srv")
    serve(end, mtu, mebibytes)
    return end


def serve(end: End, mtu: int = 1500, mebibytes: int = 2) -> None:
    """What a guest needs after each of its boots."""
    configure(end, mtu)
    end.run(SERVE.format(folder=end.folder, mebibytes=mebibytes) + " && httpd -h /srv")


def configure(end: End, mtu: int = 1500) -> None:
    first, second = end.addresses
    # Without duplicate address detection, which busybox's ip cannot turn off for one address.
    end.run("for name in all eth0; do echo 0 >/proc/sys/net/ipv6/conf/$name/accept_dad; done; "
            f"ip link set lo up && ip link set eth0 mtu {mtu} up && "
            f"ip addr add {first}/24 dev eth0 && ip addr add {second}/64 dev eth0")


def namespace_end(lab: Lab, namespace: Namespace, number: int, mebibytes: int = 2) -> End:
    """Serves a file in a namespace that has the addresses of `number`."""
    folder = lab.folder / "srv"
    end = End(namespace, number, str(folder))
    end.run(SERVE.format(folder=folder, mebibytes=mebibytes))
    lab.process(namespace.start("busybox", "httpd", "-f", "-h", str(folder)))
    return end


def namespace_addresses(number: int) -> tuple[str, str]:
    return f"10.0.0.{number}/24", f"fd00::{number:x}/64"


def two_guests(lab: Lab, *nics: Nic, cpus: int = 1, mtu: int = 1500) -> list[End]:
    """Boots them at once; each has one device and serves a file."""
    guests = [lab.begin_to_boot(device, cpus=cpus) for device in nics]
    return [guest_end(guest, number + 1, mtu) for number, guest in enumerate(guests)]


def ping(source: End, target: End, size: int = 56, count: int = 3, tries: int = 1) -> None:
    """Every echo must come back, over both families; of several tries, those of one."""
    for address in target.addresses:
        # The first may wait for the address to be found.
        source.run(f"ping -c 1 -W 3 {address} || ping -c 1 -W 3 {address}")
        all_come = f"ping -c {count} -i 0.1 -W 2 -s {size} {address} | grep -q ' 0% packet loss'"
        source.run(" || ".join([all_come] * tries))


def exchange(one: End, other: End, families: Sequence[int] = (0, 1)) -> None:
    """Both ends fetch the other's file at the same time, once for each family."""
    sums = data_sum(one), data_sum(other)
    # From here on each end has one thread to itself.
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(_fetch, one, other, families, sums[1]),
                pool.submit(_fetch, other, one, families, sums[0])]
        for transfer in done:
            transfer.result()


def fetch(receiver: End, sender: End, families: Sequence[int] = (0, 1)) -> None:
    _fetch(receiver, sender, families, data_sum(sender))


def _fetch(receiver: End, sender: End, families: Sequence[int], expected: str) -> None:
    for family in families:
        url = sender.urls()[family]
        got = receiver.run(f"timeout 30 wget -q -O - {url} | sha256sum", 40.0)
        assert got == expected, f"{url} was received as {got}, sent as {expected}"


def data_sum(end: End) -> str:
    return end.run(f"sha256sum <{end.folder}/data")


def begin_traffic(receiver: End, sender: End) -> None:
    """The receiver, a guest, fetches the file on and on until end_traffic()."""
    receiver.run(FETCH_ON_AND_ON.format(url=sender.urls()[0], sum=data_sum(sender)))
    await_traffic(receiver)


def await_traffic(receiver: End, timeout_seconds: float = 20.0) -> None:
    """Until one more transfer than now has been good."""
    before = transfers(receiver)
    receiver.run(
        f"timeout {int(timeout_seconds)} sh -c "
        f"'until test $(wc -l </run/fetched) -gt {before + 1}; do sleep 0.1; done'",
        timeout_seconds + 5,
    )


def transfers(receiver: End) -> int:
    return int(receiver.run("wc -l </run/fetched"))


def end_traffic(receiver: End) -> None:
    receiver.run("touch /run/fetch.stop")


def check_kernel(guest: Guest) -> None:
    complaints = guest.attempt("dmesg | grep -E 'NETDEV WATCHDOG|hw csum failure|Call Trace:|BUG: '")
    assert complaints.status == 1, complaints.output


