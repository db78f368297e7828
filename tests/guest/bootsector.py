"""A disk image that the PC's firmware boots: 512 bytes of hand-assembled 16-bit code.

The boot sector uses the firmware's disk service (int 13h), and so the firmware's virtio-blk
driver: it reads 64 sectors at LBA 2048, adds all their words, writes them to LBA 4096, reads
them back from there, adds them again, and prints the text that is in the last of them to the
first serial port by direct port I/O. The words of the right content add up to zero; anything
else prints an "S" (sum), a refused disk request an "E" (error).

So the text on the port proves reads of the right data, many sectors a request, and a write.
"""

from __future__ import annotations

from pathlib import Path

SECTOR = 512
READ_LBA = 2048
WRITE_LBA = 4096
SECTORS = 64
MARKER = b"Booted, read, written and read again.\r\n"

BUFFER = 0x8000  # Where the 32 KiB of data lie; the code is at 0x7c00.
TEXT = BUFFER + (SECTORS - 1) * SECTOR


class Assembler:
    """Bytes with labels: a relative jump to a label is filled in when all labels are known."""

    def __init__(self, origin: int) -> None:
        self._origin = origin
        self.code = bytearray()
        self._labels: dict[str, int] = {}
        self._relative8: list[tuple[int, str]] = []
        self._relative16: list[tuple[int, str]] = []
        self._absolute16: list[tuple[int, str]] = []

    def label(self, name: str) -> None:
        self._labels[name] = len(self.code)

    def emit(self, text: str, _comment: str = "") -> None:
        """Hex bytes; the comment is the instruction they are."""
        self.code += bytes.fromhex(text)

    def short_jump(self, opcode: str, target: str) -> None:
        self.emit(opcode)
        self._relative8.append((len(self.code), target))
        self.code += b"\0"

    def call(self, target: str) -> None:
        self.emit("e8")
        self._relative16.append((len(self.code), target))
        self.code += b"\0\0"

    def load_si(self, target: str) -> None:
        self.emit("be")
        self._absolute16.append((len(self.code), target))
        self.code += b"\0\0"

    def finish(self) -> bytes:
        for at, target in self._relative8:
            self.code[at] = (self._labels[target] - (at + 1)) & 0xFF
        for at, target in self._relative16:
            distance = self._labels[target] - (at + 2)
            self.code[at : at + 2] = (distance & 0xFFFF).to_bytes(2, "little")
        for at, target in self._absolute16:
            address = self._origin + self._labels[target]
            self.code[at : at + 2] = address.to_bytes(2, "little")
        return bytes(self.code)


def make_image(path: Path) -> bytes:
    """Writes the image (4 MiB) and returns the data that the code copies to WRITE_LBA."""
    data = _payload()
    image = bytearray(4 << 20)
    image[:SECTOR] = _boot_sector()
    image[READ_LBA * SECTOR : READ_LBA * SECTOR + len(data)] = data
    path.write_bytes(image)
    return data


def _payload() -> bytes:
    """64 sectors without a pattern, MARKER at the start of the last; the words add up to 0."""
    data = bytearray((index * index * 31 + index // 7) & 0xFF for index in range(SECTORS * SECTOR))
    start = (SECTORS - 1) * SECTOR
    data[start : start + len(MARKER) + 1] = MARKER + b"\0"
    data[-2:] = b"\0\0"
    words = sum(int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2))
    data[-2:] = (-words & 0xFFFF).to_bytes(2, "little")
    return bytes(data)


def _boot_sector() -> bytes:
    asm = Assembler(0x7C00)
    asm.emit("31 c0", "xor ax, ax")
    asm.emit("8e d8 8e c0 8e d0", "mov ds, ax; mov es, ax; mov ss, ax")
    asm.emit("bc 00 7c", "mov sp, 0x7c00")
    asm.emit("fc", "cld")
    for packet, service in (("read_packet", "42"), ("write_packet", "43"), ("again_packet", "42")):
        asm.load_si(packet)  # mov si, packet
        asm.emit(f"b8 00 {service}", "mov ax, service << 8")
        asm.emit("cd 13", "int 0x13: the disk dl, which the firmware left there")
        asm.emit("b0 45", "mov al, 'E'")
        asm.short_jump("72", "give_up")  # jc give_up
        if service == "42":
            asm.call("check_sum")
    asm.emit("be" + TEXT.to_bytes(2, "little").hex(), "mov si, TEXT")
    asm.label("next")
    asm.emit("ac", "lodsb")
    asm.emit("84 c0", "test al, al")
    asm.short_jump("74", "halt")  # jz halt
    asm.call("print")
    asm.short_jump("eb", "next")  # jmp next
    asm.label("give_up")
    asm.call("print")
    asm.label("halt")
    asm.emit("f4", "hlt")
    asm.short_jump("eb", "halt")  # jmp halt
    _routines(asm)
    _packets(asm)
    return asm.finish().ljust(510, b"\0") + b"\x55\xaa"


def _routines(asm: Assembler) -> None:
    asm.label("print")  # al to the serial port; dx stays what it was (the firmware's disk).
    asm.emit("52", "push dx")
    asm.emit("88 c4", "mov ah, al")
    asm.emit("ba fd 03", "mov dx, 0x3fd: the line status register")
    asm.label("busy")
    asm.emit("ec", "in al, dx")
    asm.emit("a8 20", "test al, 0x20: is the transmitter empty?")
    asm.short_jump("74", "busy")  # jz busy
    asm.emit("ba f8 03", "mov dx, 0x3f8: the data register")
    asm.emit("88 e0", "mov al, ah")
    asm.emit("ee", "out dx, al")
    asm.emit("5a", "pop dx")
    asm.emit("c3", "ret")
    # Adds the words of the buffer. "S" if the sum is not zero.
    asm.label("check_sum")
    asm.emit("be" + BUFFER.to_bytes(2, "little").hex(), "mov si, BUFFER")
    asm.emit("b9" + (SECTORS * SECTOR // 2).to_bytes(2, "little").hex(), "mov cx, words")
    asm.emit("31 db", "xor bx, bx")
    asm.label("add")
    asm.emit("ad", "lodsw")
    asm.emit("01 c3", "add bx, ax")
    asm.short_jump("e2", "add")  # loop add
    asm.emit("b0 53", "mov al, 'S'")
    asm.emit("85 db", "test bx, bx")
    asm.short_jump("75", "give_up")  # jnz give_up
    asm.emit("c3", "ret")


def _packets(asm: Assembler) -> None:
    """Disk address packets: size 16, sectors, buffer offset and segment, first sector."""
    for name, lba in (("read_packet", READ_LBA), ("write_packet", WRITE_LBA),
                      ("again_packet", WRITE_LBA)):
        asm.label(name)
        asm.code += bytes([16, 0]) + SECTORS.to_bytes(2, "little")
        asm.code += BUFFER.to_bytes(2, "little") + b"\0\0" + lba.to_bytes(8, "little")
