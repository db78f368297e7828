"""The network's part of the demonstration: two guests on one vhost-user-net, then a TAP, too.

Prints what each end runs and what it answered. Anything that does not work is an exception.
"""

from __future__ import annotations

import network
from lab import Lab
from namespace import Namespace, NotAllowed
from netdaemon import NetDaemon, Port
from network import End

HOST = 9


def show(lab: Lab) -> str:
    """One sentence on what was shown."""
    namespace, reason = _namespace(lab)
    daemon = lab.net_daemon(Port(), Port(), namespace=namespace)
    print(f"\nvhost-user-net (process {daemon.pid}) serves two guests"
          + (f", with {namespace.interface} in a network namespace as uplink" if namespace else ""))
    print("booting them ...", flush=True)
    one, other = network.two_guests(lab, network.nic(daemon, 0), network.nic(daemon, 1))
    _between("The guests reach each other", one, "guest 1", other, "guest 2")
    if namespace is None:
        print(f"\nLeft out, a TAP as uplink: {reason}")
        return "two guests reached each other"
    host = network.namespace_end(lab, namespace, HOST)
    _between("A guest and the host, over the TAP", one, "guest 1", host, "host")
    _summary(daemon)
    return "two guests reached each other and the host"


def _namespace(lab: Lab) -> tuple[Namespace | None, str]:
    try:
        return lab.namespace(*network.namespace_addresses(HOST)), ""
    except NotAllowed as error:
        return None, str(error)


def _between(title: str, one: End, one_name: str, other: End, other_name: str) -> None:
    print(f"\n{title}", flush=True)
    for address in other.addresses:
        _run(one, one_name, f"ping -c 3 -i 0.2 {address} | tail -n2")
    network.ping(one, other)
    for source, source_name, target, target_name in (
        (one, one_name, other, other_name), (other, other_name, one, one_name)
    ):
        print(f"  {target_name}# sha256sum <{target.folder}/data\n  {network.data_sum(target)}")
        for url in target.urls():
            _run(source, source_name, f"wget -q -O - {url} | sha256sum")
    network.exchange(one, other)


def _run(end: End, name: str, script: str) -> None:
    print(f"  {name}# {script}", flush=True)
    print("\n".join(f"  {line}" for line in end.run(script).splitlines()), flush=True)


def _summary(daemon: NetDaemon) -> None:
    for port in (0, 1):
        segments = daemon.count(port, "from_guest", "size_classes/longer")
        frames = daemon.count(port, "from_guest", "frames")
        print(f"p{port}: {frames} frames from the guest, {segments} of them of more than 9216 bytes (TSO)")
