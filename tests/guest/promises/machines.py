"""Guests of other architectures, served by this machine's daemons. Their group is "machines"."""

from __future__ import annotations

import functools
import hashlib
import random
import subprocess
from pathlib import Path

import architecture
import bootdisk
import initramfs
import kernel
import network
from architecture import Architecture
from guest import Disk, Guest, kernel_options
from lab import MEBIBYTE, Lab
from netdaemon import Port
from runner import promise_of

HOST, GUEST = 1, 2
EXTLINUX = """\
default linux
prompt 0
label linux
  kernel /vmlinuz
  initrd /initramfs
  append {options}
"""
# Each round has other content for each place, so what a round loses is seen.
WRITE_ON_AND_ON = """
(for i in 0 1 2 3; do dd if=/dev/urandom of=/run/part$i bs=1M count=4; done
n=0
while ! test -e /run/stop; do
    n=$((n + 1))
    for i in 1 2 3 4; do
        dd if=/run/part$(((i + n) % 4)) of=/dev/vdb bs=64k seek=$((i * 64)) conv=fsync,notrunc ||
            touch /run/failed
    done
    touch /run/round
done
echo $n >/run/rounds; touch /run/stopped) >/dev/null 2>&1 &
"""


def boots_from_our_disk_and_keeps_its_data(kind: Architecture, lab: Lab) -> None:
    """U-Boot's virtio driver reads the kernel; the kernel's reads and writes a file system."""
    boot = lab.daemon(_boot_disk(lab, kind))
    data = lab.image("data.img")
    content = random.Random(1).randbytes(8 * MEBIBYTE)
    _make_filesystem(lab, data, content)
    store = lab.daemon(data)
    guest = lab.boot_foreign(
        kind, Disk(boot.socket, num_queues=1), Disk(store.socket, num_queues=2)
    )
    guest.wait_ready()
    assert guest.run("uname -m") == kind.name

    for device, image in (("vda", lab.folder / "boot.img"), ("vdb", data)):
        got = guest.run(f"sha256sum </dev/{device}").split()[0]
        assert got == hashlib.sha256(image.read_bytes()).hexdigest(), f"{device} is read wrong"
    guest.run(
        "mount /dev/vdb /mnt && cp /mnt/content /mnt/copy && "
        "dd if=/dev/urandom of=/mnt/more bs=1M count=8 && sync && "
        "echo 3 >/proc/sys/vm/drop_caches && cmp /mnt/content /mnt/copy"
    )
    more = guest.run("sha256sum </mnt/more && umount /mnt").split()[0]
    guest.power_off()
    assert _read_file(data, "copy") == content
    assert hashlib.sha256(_read_file(data, "more")).hexdigest() == more
    subprocess.run(["/sbin/e2fsck", "-f", "-n", data], check=True, capture_output=True)


def writes_on_when_the_daemon_is_killed(kind: Architecture, lab: Lab) -> None:
    """The requests in flight are carried out by the successor: none is lost, none waits forever."""
    boot = lab.daemon(_boot_disk(lab, kind))
    data = lab.image("data.img")
    store = lab.daemon(data)
    guest = lab.boot_foreign(
        kind, Disk(boot.socket, num_queues=1), Disk(store.socket, num_queues=2, reconnect_seconds=1)
    )
    guest.wait_ready()
    guest.run(WRITE_ON_AND_ON)
    _await(guest, "/run/round")
    for _ in range(3):
        store.kill()
        store.start()
        guest.run("rm -f /run/round")
        _await(guest, "/run/round")
    guest.run("touch /run/stop")
    _await(guest, "/run/stopped")
    guest.run("test ! -e /run/failed")
    sums = guest.run(
        "n=$(cat /run/rounds); for i in 1 2 3 4; do cat /run/part$(((i + n) % 4)); done | sha256sum"
    )
    with data.open("rb") as image:
        image.seek(4 * MEBIBYTE)
        assert hashlib.sha256(image.read(16 * MEBIBYTE)).hexdigest() == sums.split()[0]


def reaches_the_network_through_a_tap(kind: Architecture, lab: Lab) -> None:
    """Echoes and TCP both ways, over both families."""
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    daemon = lab.net_daemon(Port(), namespace=namespace)
    host = network.namespace_end(lab, namespace, HOST)
    guest = lab.begin_to_boot(network.nic(daemon, 0), kind="foreign", architecture=kind)
    end = network.guest_end(guest, GUEST)
    network.ping(end, host)
    network.ping(host, end, size=1400)
    network.exchange(end, host)
    network.check_kernel(guest)


def _await(guest: Guest, file: str) -> None:
    guest.run(f"timeout 60 sh -c 'until test -e {file}; do sleep 0.1; done'")


def _boot_disk(lab: Lab, kind: Architecture) -> Path:
    linux = kernel.obtain(lab.setting.cache, kind)
    root = initramfs.build(lab.setting.cache, linux, "foreign", kind)
    image = lab.folder / "boot.img"
    bootdisk.make(image, {"vmlinuz": linux.image, "initramfs": root})
    bootdisk.make_folder(image, "extlinux")
    configuration = EXTLINUX.format(options=kernel_options(kind))
    bootdisk.write(image, "extlinux/extlinux.conf", configuration.encode())
    return image


def _make_filesystem(lab: Lab, image: Path, content: bytes) -> None:
    folder = lab.folder / "files"
    folder.mkdir()
    (folder / "content").write_bytes(content)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-d", folder, image], check=True, capture_output=True)


def _read_file(image: Path, name: str) -> bytes:
    return subprocess.run(
        ["/sbin/debugfs", "-R", f"cat {name}", image], check=True, capture_output=True
    ).stdout


for _kind in architecture.FOREIGN.values():
    for _test in (boots_from_our_disk_and_keeps_its_data, writes_on_when_the_daemon_is_killed,
                  reaches_the_network_through_a_tap):
        promise_of("machines", f"{_kind.name}_guest_{_test.__name__}",
                   functools.partial(_test, _kind))
