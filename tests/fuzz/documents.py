# SPDX-License-Identifier: Apache-2.0
"""Mutates what the agent reads beside its clients' frames, and throws it at the readers.

    python -m tests.fuzz.documents [--minutes 10] [--seed N] [KIND...]

Kinds: vm-xml and http-head (what a client sends), domain-metadata, volume-metadata, task-record, mailbox, qcow2 (what
lies on storage), bus (headers under a right seal), io (packets of the process that does file access), helper (request
lines to root), control (requests of operators). Rule: a reader
gives a value or one of the errors it declares, whatever comes; nothing else is raised, and nothing of the size of the
input's square happens. An input that breaks it is kept in `corpus/documents/KIND`.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import random
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.support.virt_room import DISK_IDS, vm_xml
from vdsm_mp.clientif import httphead
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.house.desk import Request as ControlRequest
from vdsm_mp.ipc import envelope
from vdsm_mp.priv.helper import Helper
from vdsm_mp.storage import domain_metadata, ioproc_wire, mailbox_format, qcow2, volume_metadata
from vdsm_mp.tasks import record
from vdsm_mp.virt import domxml_build, domxml_parse
from vdsm_mp.virt.metadata import Metadata

CORPUS = Path(__file__).parent / "corpus" / "documents"
#: One reading, on a machine that is busy with other things.
SLOW_S = 2.0
_ID = str(uuid.UUID(int=7))
_VM = "11111111-2222-3333-4444-555555555555"
_POLICY = domxml_build.Policy(disk_folders=("/rhev/data-center",))


@dataclass(frozen=True, slots=True)
class Kind:
    """read: raises only what `declared` names. words: what its readers look for."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    declared: tuple[type[Exception], ...]
    words: tuple[bytes, ...]


def read_vm_xml(data: bytes) -> object:
    domain = xml.parse(data.decode("utf-8", "replace"))
    metadata = Metadata.of_domain(domain) or Metadata()
    domxml_build.check(domain, metadata, _POLICY)
    identity = domxml_parse.identity(domain)
    return identity, domxml_parse.devices(domain, metadata), metadata.dump(), xml.dump(domain)


def read_domain_metadata(data: bytes) -> object:
    try:
        pairs = domain_metadata.parse(_ID, data)
    except Error:
        # The seal keeps mutants out; behind it the values are read all the same, as of one who can make seals.
        text = data.decode("utf-8", "replace")
        pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return domain_metadata.encode(domain_metadata.decode(_ID, pairs)), domain_metadata.decode_pool(_ID, pairs)


def read_task(data: bytes) -> object:
    names = (f"{_ID}.task", f"{_ID}.result", f"{_ID}.job.0", f"{_ID}.recover.0")
    files = {name: part for name, part in zip(names, data.split(b"\0\0"), strict=False) if part}
    return record.to_files(record.from_files(_ID, files), "/store")


_SEAL = envelope.Seal("a token of the fuzzer's")


def read_bus(data: bytes) -> object:
    frame = _SEAL._seal(data, b"{}", b"") + data
    found: list[object] = []
    for decoder in (envelope.requests, envelope.replies, envelope.notices):
        with contextlib.suppress(envelope.Broken):
            found.append(_SEAL.open(decoder, frame, b"{}"))  # type: ignore[attr-defined]
    if not found:
        raise envelope.Broken("none of the three")
    return found


class _Quiet(Helper):
    """Takes lines and answers; runs nothing and writes no log."""

    def _audit(self, name: str, params: str, outcome: str) -> None:
        return


_HELPERS = {name: _Quiet(name, {"user": "root"}, io.BytesIO(), io.BytesIO()) for name in ("storage", "network", "virt")}


def read_helper_line(data: bytes) -> object:
    helper = _HELPERS[("storage", "network", "virt")[len(data) % 3]]
    helper._calls = 0
    helper._take(data)
    while not helper._todo.empty():
        row, _, params, _ = helper._todo.get_nowait()
        assert row.fault(params) is None
    answers = [json.loads(line) for line in helper._sink.getvalue().splitlines()]  # type: ignore[attr-defined]
    helper._sink.seek(0)
    helper._sink.truncate()
    assert all(set(answer) == {"id", "error", "detail"} for answer in answers), answers
    return answers


def read_mailbox(data: bytes) -> object:
    """A host's messages; the seal is no secret, so everybody may write what is under it."""
    box = mailbox_format.seal(data[: mailbox_format.SLOTS * mailbox_format.MESSAGE])
    assert mailbox_format.is_sealed(box)
    found: list[object] = []
    for message in mailbox_format.messages(box):
        if mailbox_format.is_extend(message):
            with contextlib.suppress(ValueError):
                found.append(mailbox_format.decode_extend(message).encode())
            assert len(mailbox_format.failed(message)) == mailbox_format.MESSAGE
    return found


def read_io(data: bytes) -> object:
    try:
        return ioproc_wire.unpack_request(data)
    except ValueError:
        return ioproc_wire.unpack_answer(data)


def _task_seed() -> bytes:
    step = record.Recovery("undo", "image", "Image", "rollback", ("a", "b"))
    task = record.TaskRecord(_ID, "createVolume", jobs=("one",), recoveries=(step,))
    files = record.to_files(task, "/store")
    return b"\0\0".join(
        files.get(f"{_ID}.{name}", "").encode() for name in ("task", "result", "job.0", "recover.0")
    )  # fmt: skip


def _volume_seed() -> bytes:
    pairs = {
        "CAP": 1024, "CTIME": 1, "DESCRIPTION": "", "DISKTYPE": "DATA", "DOMAIN": _ID, "FORMAT": "RAW", "GEN": 0,
        "IMAGE": _ID, "LEGALITY": "LEGAL", "PUUID": str(uuid.UUID(int=0)), "SEQ": 1, "TYPE": "SPARSE",
        "VOLTYPE": "LEAF",
    }  # fmt: skip
    return "".join(f"{key}={value}\n" for key, value in pairs.items()).encode() + b"EOF\n"


_DOMAIN = {
    "ALIGNMENT": "1048576", "BLOCK_SIZE": "512", "CLASS": "Data", "DESCRIPTION": "d", "IOOPTIMEOUTSEC": "10",
    "LEASERETRIES": "3", "LEASETIMESEC": "60", "LOCKPOLICY": "", "LOCKRENEWALINTERVALSEC": "5", "MASTER_VERSION": "1",
    "POOL_DESCRIPTION": "p", "POOL_DOMAINS": f"{_ID}:Active", "POOL_SPM_ID": "-1", "POOL_SPM_LVER": "-1",
    "POOL_UUID": _ID, "REMOTE_PATH": "/x", "ROLE": "Master", "SDUUID": _ID, "TYPE": "LOCALFS", "VERSION": "5",
}  # fmt: skip
_LINES = "".join(f"{key}={value}\n" for key, value in _DOMAIN.items()).encode()
_NUMBERS = (b"-1", b"0", b"9" * 30, b"1e9", b"\xd9\xa1", b"NaN", b"2147483648", b" 1", b"1_0", b"0x10")
_KEYS = (b"\n", b"=", b"\r", b"\0", b"\x0b", b"\xc2\x85", b"\xff", b":", b",", b"_eq_", b"EOF\n", *_NUMBERS)
_JSON = (b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"[" * 5000, b'"\\ud800"', b"1e999", *_NUMBERS)

_XML = (
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<a>" * 300, b"</domain>", b"<disk>", b"<backingStore>", b"../",
    b"<source file='/etc/shadow'/>", b"xmlns:x='y'", b"x:", b"<![CDATA[", b"]]>", b"&#0;", b"&#xD800;", *_NUMBERS,
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "vm-xml": Kind(
        (vm_xml(_VM, disk=DISK_IDS).encode(), vm_xml(_VM, serial=Path("/x")).encode()),
        read_vm_xml, (Error,),
        _XML,
    ),
    "domain-metadata": Kind((_LINES, domain_metadata.serialize(_ID, _DOMAIN)), read_domain_metadata, (Error,), _KEYS),
    "volume-metadata": Kind(
        (_volume_seed(),), lambda data: volume_metadata.from_bytes(_ID, data), (Error,), _KEYS
    ),
    "task-record": Kind((_task_seed(),), read_task, (Error,), (b"\0\0", *_KEYS)),
    "qcow2": Kind(
        (struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 104, 20, 16, 1 << 30).ljust(104, b"\0") + b"json:{\"file\":\"/etc\"}",),
        qcow2.read_header, (qcow2.NotQcow2,), (b"\xff" * 8, b"QFI\xfb", b"\0" * 8, b"\x7f" * 4),
    ),
    "mailbox": Kind(
        (mailbox_format.Extend(_ID, _VM, 1024).encode() * 3 + mailbox_format.CLEAN,),
        read_mailbox, (), (b"1xtnd", b"\x01" * 64, b"\0" * 64, b"f" * 16, b"_", b" ", b"\xd9\xa1", b"-1", b"z"),
    ),
    "http-head": Kind(
        (b"PUT /a HTTP/1.1\r\nStorage-Pool-Id: a\r\nStorage-Domain-Id: b\r\nImage-Id: c\r\nContent-Length: 7",
         b"GET /a HTTP/1.1\r\nStorage-Pool-Id: a\r\nStorage-Domain-Id: b\r\nImage-Id: c\r\nRange: bytes=0-9"),
        httphead.parse_head, (httphead.BadHead,),
        (b"\r\n", b"\n", b":", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked",
         b"Expect: 100-continue", *_NUMBERS),
    ),
    "io": Kind(
        (ioproc_wire.pack(ioproc_wire.Request(1, "read", {"path": "x"}), b"body"),
         ioproc_wire.pack(ioproc_wire.Answer(1, errno=5, more=True), b"body")),
        read_io, (ValueError,), _JSON,
    ),
    "bus": Kind(
        tuple(msgspec.json.encode(header) for header in (
            envelope.Request(envelope.BUS_VERSION, "call", 7, "clientif", 1, "virt", "Host.getVMList", 1.5, "f", "p"),
            envelope.Reply(envelope.BUS_VERSION, "done", 7, "virt", 1),
            envelope.Notice(envelope.BUS_VERSION, "event", "virt", 1, 2),
        )),
        read_bus, (envelope.Broken,), _JSON,
    ),
    "helper": Kind(
        (b'{"id":1,"op":"ping","params":{},"deadline_s":5}\n',
         b'{"id":1,"op":"mount-nfs","params":{"remote":"s:/x","options":"vers=4"},"deadline_s":5}\n',
         b'{"id":1,"op":"link-up","params":{"name":"eth0"},"deadline_s":5}\n'),
        read_helper_line, (), (b"-", b"..", b"/", b"\\u0000", b"\\n", b"params", b"umount", b"options", *_JSON),
    ),
    "control": Kind(
        (b'{"do":"status"}', b'{"do":"profile","worker":"virt","seconds":5}'),
        lambda data: msgspec.json.decode(data, type=ControlRequest),
        (msgspec.MsgspecError, UnicodeDecodeError, RecursionError), _JSON,
    ),
}  # fmt: skip


def mutant(rng: random.Random, kind: Kind) -> bytes:
    """A seed after some accidents."""
    octets = bytearray(rng.choice(kind.seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(octets) + 1)
        match rng.randrange(6):
            case 0 if octets:
                octets[min(at, len(octets) - 1)] = rng.randrange(256)
            case 1:
                octets[at:at] = rng.choice(kind.words)
            case 2:
                del octets[at : at + rng.choice((1, 1, 2, 8, 64))]
            case 3:
                octets[at:at] = bytes(octets[at : at + rng.randrange(64)]) * rng.choice((1, 2, 50))
            case 4:
                word = rng.choice(kind.words)
                octets[at : at + len(word)] = word
            case _:
                other = rng.choice(kind.seeds)
                octets[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(octets)


def judge(kind: Kind, data: bytes) -> None:
    """Raises whatever the reader should not, or AssertionError when it took too long."""
    began = time.process_time()
    with contextlib.suppress(*kind.declared):
        kind.read(data)
    assert time.process_time() - began < SLOW_S, "it took too long"


def known() -> Iterator[tuple[str, Path]]:
    for name in KINDS:
        for path in sorted((CORPUS / name).glob("*")):
            yield name, path


def run(seconds: float, seed: int, names: list[str], *, most: int | None = None) -> dict[str, int]:
    """{kind: how many mutants}. Raises: AssertionError with the file that shows what went wrong."""
    rng = random.Random(seed)
    tried: dict[str, int] = dict.fromkeys(names, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until and (most is None or sum(tried.values()) < most):
        for name in names:
            data = mutant(rng, KINDS[name])
            tried[name] += 1
            try:
                judge(KINDS[name], data)
            except Exception as error:
                raise AssertionError(f"{keep(name, data)}, seed {seed}: {error!r}") from error
    return tried


def keep(name: str, data: bytes) -> Path:
    """Into the corpus; tests try it for ever."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # storage warns of each seal that is missing
    found: dict[str, Any] = run(asked.minutes * 60, asked.seed, asked.kinds or list(KINDS))
    print(f"{sum(found.values())} inputs, none broke a rule: {found}")


if __name__ == "__main__":
    main()
