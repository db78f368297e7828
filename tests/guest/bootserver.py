"""What machines boot from over a network: DHCP, TFTP and HTTP in a namespace, from one folder.

The host is number 1 of the network, and serves a file of random bytes as every end does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import network
from lab import Lab
from namespace import Namespace
from network import End
from runner import Skip

HOST = 1
ADDRESS = "10.0.0.1"


def serve(lab: Lab, boot_file: str) -> tuple[Namespace, End]:
    """A namespace in which machines are told of this file: a name for TFTP, or a URL."""
    if shutil.which("dnsmasq", path="/usr/sbin:/usr/bin") is None:
        raise Skip("there is no dnsmasq (package dnsmasq-base)")
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    host = network.namespace_end(lab, namespace, HOST)
    lab.process(namespace.start(
        "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
        "--user=root", "--group=root", "--port=0", "--bind-interfaces",
        f"--interface={namespace.interface}", "--no-ping", "--dhcp-range=10.0.0.50,10.0.0.60,600",
        "--enable-ra", "--dhcp-range=fd00::,ra-only",  # Or iPXE waits 15 s for a router.
        f"--dhcp-leasefile={lab.folder}/leases", f"--pid-file={lab.folder}/dnsmasq.pid",
        f"--dhcp-boot={boot_file}", "--enable-tftp", f"--tftp-root={host.folder}",
        "--tftp-no-fail", "--log-facility=-", "--log-dhcp", log=lab.folder / "dnsmasq.log",
    ))
    return namespace, host


def data(host: End) -> Path:
    return Path(host.folder) / "data"
