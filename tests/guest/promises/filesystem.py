"""An ext4 file system made, filled and checked by the guest, then checked by the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

from guest import Guest
from lab import Lab
from runner import promise

FILL = """
set -e
mkdir /mnt/files
for number in 1 2 3 4 5 6 7 8; do
    dd if=/dev/urandom of=/mnt/files/$number bs=64k count=$((number * 4)) 2>/dev/null
done
cp /bin/busybox /mnt/files/program
ln -s program /mnt/files/link
sync
cd /mnt/files && sha256sum * | sort
"""


@promise
def ext4_written_by_the_guest_is_clean_for_guest_and_host(lab: Lab) -> None:
    image = lab.image(mebibytes=128)
    guest = lab.boot(lab.daemon(image))
    guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
    written = guest.run(FILL)
    guest.run("umount /mnt && e2fsck -f -n /dev/vda")
    _drop_caches(guest)
    guest.run("mount /dev/vda /mnt")
    assert guest.run("cd /mnt/files && sha256sum * | sort") == written
    guest.run("rm /mnt/files/[1-4]; umount /mnt && e2fsck -f -n /dev/vda")
    guest.power_off()
    _check_on_host(image)


@promise
def ext4_survives_a_power_cut_after_sync(lab: Lab) -> None:
    image = lab.image(mebibytes=128)
    daemon = lab.daemon(image)
    guest = lab.boot(daemon)
    guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
    written = guest.run(FILL)
    guest.restart()  # The reset line: nothing is unmounted.
    guest.run("mount /dev/vda /mnt")
    assert guest.run("cd /mnt/files && sha256sum * | sort") == written
    guest.run("umount /mnt && e2fsck -f -n /dev/vda")
    guest.power_off()
    _check_on_host(image)


def _drop_caches(guest: Guest) -> None:
    guest.run("echo 3 >/proc/sys/vm/drop_caches; blockdev --flushbufs /dev/vda")


def _check_on_host(image: Path) -> None:
    check = subprocess.run(
        ["/sbin/e2fsck", "-f", "-n", image], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
