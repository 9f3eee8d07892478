# SPDX-License-Identifier: Apache-2.0
"""A guest of 512 bytes: prints HELLO, then `TICK <8 hex digits>` about once a second, on the first serial port.

It halts between ticks, so it costs next to nothing, runs in 4 MiB, and its counter lives in a register: a guest that
was migrated, or left alone by a dying agent, goes on counting where it was; one that was rebooted says HELLO again.
One that `releases` lets a PCI device of its root bus go when it is asked to, at the next tick.
"""

from pathlib import Path

_ORIGIN = 0x7C00
_UART = 0x3F8
#: BIOS timer interrupts (18.2 a second) between two ticks.
_PAUSE = 18
#: QEMU's interface for ACPI: which slots are asked to go, which go, on which bus (docs/specs/acpi_pci_hotplug).
_PCI_DOWN, _PCI_EJECT, _PCI_BUS = 0xAE04, 0xAE08, 0xAE10


class _Assembler:
    """Just enough: bytes, labels, near calls, short jumps and absolute addresses."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._near: list[tuple[int, str]] = []
        self._short: list[tuple[int, str]] = []
        self._absolute: list[tuple[int, str]] = []

    def emit(self, *octets: int) -> None:
        self._code += bytes(octets)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def text(self, name: str, content: bytes) -> None:
        self.label(name)
        self._code += content + b"\0"

    def call(self, name: str) -> None:
        self.emit(0xE8, 0, 0)
        self._near.append((len(self._code) - 2, name))

    def jump(self, opcode: int, name: str) -> None:
        self.emit(opcode, 0)
        self._short.append((len(self._code) - 1, name))

    def load_si(self, name: str) -> None:
        self.emit(0xBE, 0, 0)
        self._absolute.append((len(self._code) - 2, name))

    def finish(self) -> bytes:
        for at, name in self._near:
            self._code[at : at + 2] = (self._labels[name] - at - 2).to_bytes(2, "little", signed=True)
        for at, name in self._short:
            self._code[at : at + 1] = (self._labels[name] - at - 1).to_bytes(1, "little", signed=True)
        for at, name in self._absolute:
            self._code[at : at + 2] = (_ORIGIN + self._labels[name]).to_bytes(2, "little")
        if len(self._code) > 510:
            raise ValueError(f"{len(self._code)} bytes do not fit into a boot sector")
        return bytes(self._code).ljust(510, b"\0") + b"\x55\xaa"


def boot_sector(*, releases: bool = False) -> bytes:
    """The 512 bytes."""
    a = _Assembler()
    a.emit(0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0)  # cli; xor ax,ax; mov ds,ax; mov ss,ax
    a.emit(0xBC, 0x00, 0x7C, 0xFB)  # mov sp,7c00; sti
    a.emit(0xB8, 0xE3, 0x00, 0x31, 0xD2, 0xCD, 0x14)  # int 14h, ax=00e3, dx=0: 9600 8n1
    a.emit(0x66, 0x31, 0xDB)  # xor ebx,ebx
    a.load_si("hello")
    a.call("print")
    a.label("tick")
    if releases:
        a.emit(0x66, 0x31, 0xC0, 0xBA, *_PCI_BUS.to_bytes(2, "little"), 0x66, 0xEF)  # xor eax,eax; out bus,eax
        a.emit(0xBA, *_PCI_DOWN.to_bytes(2, "little"), 0x66, 0xED)  # in eax,down
        a.emit(0x66, 0x09, 0xC0)  # or eax,eax
        a.jump(0x74, "none")
        a.emit(0xBA, *_PCI_EJECT.to_bytes(2, "little"), 0x66, 0xEF)  # out eject,eax
        a.label("none")
    a.emit(0x66, 0x43)  # inc ebx
    a.load_si("word")
    a.call("print")
    a.emit(0xB9, 0x08, 0x00)  # mov cx,8: eight hex digits
    a.label("digit")
    a.emit(0x66, 0xC1, 0xC3, 0x04, 0x88, 0xD8, 0x24, 0x0F)  # rol ebx,4; mov al,bl; and al,0f
    a.emit(0x3C, 0x0A)  # cmp al,10
    a.jump(0x72, "decimal")  # jb
    a.emit(0x04, ord("a") - ord("0") - 10)
    a.label("decimal")
    a.emit(0x04, ord("0"))
    a.call("send")
    a.jump(0xE2, "digit")  # loop
    a.load_si("newline")
    a.call("print")
    a.emit(0xB9, _PAUSE, 0x00)
    a.label("rest")
    a.emit(0xF4)  # hlt
    a.jump(0xE2, "rest")
    a.jump(0xEB, "tick")
    a.label("print")
    a.emit(0xAC, 0x08, 0xC0)  # lodsb; or al,al
    a.jump(0x74, "printed")
    a.call("send")
    a.jump(0xEB, "print")
    a.label("printed")
    a.emit(0xC3)
    a.label("send")
    a.emit(0x50, 0x52, 0xBA, *(_UART + 5).to_bytes(2, "little"))  # push ax; push dx; mov dx,line status
    a.label("busy")
    a.emit(0xEC, 0xA8, 0x20)  # in al,dx; test al,20
    a.jump(0x74, "busy")
    a.emit(0x5A, 0x58, 0x52, 0xBA, *_UART.to_bytes(2, "little"), 0xEE, 0x5A, 0xC3)  # pop,pop,push; out dx,al; pop; ret
    a.text("hello", b"HELLO\r\n")
    a.text("word", b"TICK ")
    a.text("newline", b"\r\n")
    return a.finish()


def write_boot_disk(path: Path, size_bytes: int = 1 << 20, *, releases: bool = False) -> Path:
    """A raw disk that boots the guest."""
    path.write_bytes(boot_sector(releases=releases).ljust(size_bytes, b"\0"))
    return path


def last_tick(serial_log: Path) -> int:
    """The newest complete tick in a serial log; 0 when there is none yet."""
    try:
        lines = serial_log.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    ticks = [line for line in lines if line.startswith(b"TICK ")]
    return int(ticks[-1].split()[1], 16) if ticks else 0


def hellos(serial_log: Path) -> int:
    """How often the guest has booted."""
    try:
        return serial_log.read_bytes().count(b"HELLO")
    except FileNotFoundError:
        return 0
