"""Discard and write-zeroes: what the guest gives back is gone from the host's file.

/tools/blkdiscard by its path: busybox's shell prefers its own, which cannot write zeroes.
"""

from __future__ import annotations

from pathlib import Path

from guest import Guest
from lab import MEBIBYTE, Lab
from runner import promise

FILL = "dd if=/dev/urandom of=/dev/vda bs=1M count=32 oflag=direct 2>/dev/null"


def allocated(image: Path) -> int:
    return image.stat().st_blocks * 512


@promise
def discard_frees_the_blocks_of_the_host_file(lab: Lab) -> None:
    image = lab.image(mebibytes=32)
    guest = lab.boot(lab.daemon(image))
    assert int(guest.run("cat /sys/block/vda/queue/discard_max_bytes")) > 0
    guest.run(FILL)
    before = image.read_bytes()
    assert allocated(image) >= 32 * MEBIBYTE
    guest.run("/tools/blkdiscard -o 8M -l 16M /dev/vda")
    assert allocated(image) <= 17 * MEBIBYTE
    after = image.read_bytes()
    assert len(after) == 32 * MEBIBYTE
    assert after[: 8 * MEBIBYTE] == before[: 8 * MEBIBYTE]
    assert after[24 * MEBIBYTE :] == before[24 * MEBIBYTE :]


@promise
def write_zeroes_zeroes_exactly_its_range(lab: Lab) -> None:
    image = lab.image(mebibytes=32)
    guest = lab.boot(lab.daemon(image))
    limit = int(guest.run("cat /sys/block/vda/queue/write_zeroes_max_bytes"))
    assert limit > 0, "the disk offers no write-zeroes"
    guest.run(FILL)
    before = image.read_bytes()
    begin, end = 4 * MEBIBYTE + 512, 20 * MEBIBYTE - 512
    written = _sectors_written(guest)
    guest.run(f"/tools/blkdiscard -z -o {begin} -l {end - begin} /dev/vda")
    after = image.read_bytes()
    assert after[begin:end] == bytes(end - begin)
    assert after[:begin] == before[:begin] and after[end:] == before[end:]
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    assert guest.run(f"dd if=/dev/vda bs=512 skip={begin // 512} count={(end - begin) // 512} "
                     "2>/dev/null | tr -d '\\0' | wc -c") == "0"
    assert _sectors_written(guest) - written <= (end - begin) // 512


def _sectors_written(guest: Guest) -> int:
    return int(guest.run("cat /sys/block/vda/stat").split()[6])


@promise
def ext4_trim_gives_deleted_files_back_to_the_host(lab: Lab) -> None:
    image = lab.image(mebibytes=128)
    guest = lab.boot(lab.daemon(image))
    guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
    guest.run("dd if=/dev/urandom of=/mnt/large bs=1M count=48 2>/dev/null; sync")
    full = allocated(image)
    guest.run("rm /mnt/large; sync; fstrim /mnt")
    assert allocated(image) <= full - 40 * MEBIBYTE
    guest.run("umount /mnt && e2fsck -f -n /dev/vda")
