# SPDX-License-Identifier: Apache-2.0
"""What is added to files that are not the agent's, remembered so that it can be taken back to the byte.

`REMEMBERED/record.json`: {path: {"added": text, "after": digest of the file with it, "copy": name | null}}; the copies
lie beside it, with the times and modes of the files before. A file that nobody touched since becomes its copy again;
from one that was edited or replaced meanwhile only our text goes. A copy of null: there was no such file.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TypedDict

REMEMBERED = Path("/var/lib/vdsm-mp/foreign")
_BEGIN, _END = "# begin of vdsm-mp\n", "# end of vdsm-mp\n"


class _Entry(TypedDict):
    added: str
    after: str
    copy: str | None


class Ledger:
    """The record in `folder`; anything but `REMEMBERED` is for tests."""

    def __init__(self, folder: Path = REMEMBERED) -> None:
        self._folder = folder
        self._record = folder / "record.json"

    def section(self, path: Path, text: str) -> bool:
        """Have our marked section, and no older one of ours, at the end of a file. True: the file has changed."""
        return self._add(path, f"{_BEGIN}{text}{_END}")

    def line(self, path: Path, text: str) -> bool:
        """Have one more line at the end of a file. True: the file has changed."""
        return self._add(path, f"{text}\n")

    def put_back(self) -> list[Path]:
        """Take back everything that was added. Returns the files that changed by it."""
        entries = self._read()
        changed = []
        for name, entry in entries.items():
            if _take_back(Path(name), entry, self._folder):
                changed.append(Path(name))
        shutil.rmtree(self._folder, ignore_errors=True)
        return changed

    def _add(self, path: Path, text: str) -> bool:
        path = path.resolve()
        entries = self._read()
        now = text_of(path) if path.exists() else ""
        entry = entries.get(str(path))
        if entry is not None and entry["added"].removeprefix("\n") == text and entry["added"] in now:
            return False
        base = _without_section(now.replace(entry["added"], "", 1) if entry is not None else now)
        added = text if not base or base.endswith("\n") else f"\n{text}"
        copy = self._keep(path, base, entry)
        entries[str(path)] = {"added": added, "after": _digest(base + added), "copy": copy}
        # Recorded first: what is recorded and not there is no harm, the other way round nobody would take it back.
        self._write(entries)
        replace(path, base + added)
        return True

    def _keep(self, path: Path, base: str, entry: _Entry | None) -> str | None:
        """A copy of the file as it is without us."""
        if not path.exists():
            return None
        if entry is not None and entry["copy"] is not None and text_of(self._folder / entry["copy"]) == base:
            return entry["copy"]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        copy = self._folder / str(path).strip("/").replace("/", "_")
        shutil.copy2(path, copy)
        os.chown(copy, path.stat().st_uid, path.stat().st_gid)
        if text_of(copy) != base:
            copy.write_bytes(_encoded(base))
        return copy.name

    def _read(self) -> dict[str, _Entry]:
        return json.loads(self._record.read_text()) if self._record.exists() else {}

    def _write(self, entries: dict[str, _Entry]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(entries, indent=2))
        new.replace(self._record)


def _take_back(path: Path, entry: _Entry, folder: Path) -> bool:
    if not path.exists():
        return False
    now = text_of(path)
    copy = None if entry["copy"] is None else folder / entry["copy"]
    if _digest(now) != entry["after"]:
        if entry["added"] not in now:
            return False
        replace(path, now.replace(entry["added"], "", 1))
    elif copy is None:
        path.unlink()
    else:
        new = _beside(path)
        shutil.copy2(copy, new)
        os.chown(new, copy.stat().st_uid, copy.stat().st_gid)
        _rename(new, path)
    return True


def _without_section(text: str) -> str:
    """The file without a section that the record does not tell of: made before there was one, or by a step that was cut
    short between the two."""
    before, found, rest = text.partition(_BEGIN)
    return before + rest.partition(_END)[2] if found else text


def replace(path: Path, text: str) -> None:
    """In one step: a daemon that starts meanwhile reads all or nothing of it. Mode and owner stay."""
    new = _beside(path)
    new.write_bytes(_encoded(text))
    if path.exists():
        shutil.copymode(path, new)
        os.chown(new, path.stat().st_uid, path.stat().st_gid)
    else:
        new.chmod(0o644)
    _rename(new, path)


def _beside(path: Path) -> Path:
    """An empty file that only root reads until it has the mode of what it takes the place of: passwords may be in."""
    new = path.with_name(f".{path.name}.vdsm-mp")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    return new


def _rename(new: Path, path: Path) -> None:
    try:
        new.replace(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Containers have /etc/hosts mounted: such a file can only be written where it is.
        path.write_bytes(new.read_bytes())
        new.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(_encoded(text)).hexdigest()


def text_of(path: Path) -> str:
    """Whatever an administrator's editor wrote, to the byte: other encodings and ends of lines, too."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
