# SPDX-License-Identifier: Apache-2.0
"""What is known of managed volumes: VDSM's SQLite file, so that a host that comes from VDSM finds what it attached.

One connection a call; the file lies on the host's own disk. JSON is stored as bytes, as VDSM does.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import sqlite3

_VERSION = 1
_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS volumes (
    vol_id TEXT PRIMARY KEY, path TEXT, connection_info TEXT, attachment TEXT, multipath_id TEXT, updated datetime
);
CREATE UNIQUE INDEX IF NOT EXISTS multipath_id ON volumes (multipath_id);
CREATE TABLE IF NOT EXISTS versions (version INTEGER PRIMARY KEY, description TEXT, updated datetime);
INSERT OR IGNORE INTO versions VALUES (1, 'Initial version', datetime('now'));
COMMIT;
"""
#: Another process of ours, or an administrator's look, holds it no longer.
_BUSY_S = 10.0


class RecordsError(Exception):
    """The file is no database, has a newer version, or the disk is full."""


class AlreadyRecordedError(RecordsError):
    """Another volume has this."""


class Record(msgspec.Struct, frozen=True):
    """attachment, path: None until os-brick has told; then the volume may be attached, or not."""

    vol_id: str
    connection_info: dict[str, Any]
    path: str | None = None
    attachment: dict[str, Any] | None = None


class Records:
    """Every method raises RecordsError and OSError; nothing has changed then."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    def find(self, vol_id: str) -> Record | None:
        return next(iter(self.all([vol_id])), None)

    def all(self, vol_ids: Sequence[str] = ()) -> list[Record]:
        """By id; all of them when none is named."""
        if not self._file.exists():
            return []
        with self._open() as db:
            rows = db.execute(
                "SELECT vol_id, connection_info, path, attachment FROM volumes ORDER BY vol_id"
            ).fetchall()
        return [
            Record(vol_id, _decoded(info) or {}, path or None, _decoded(attachment))
            for vol_id, info, path, attachment in rows
            if not vol_ids or vol_id in vol_ids
        ]

    def begin(self, vol_id: str, connection_info: dict[str, Any]) -> None:
        """It is about to be attached."""
        with self._open() as db:
            db.execute(
                "INSERT INTO volumes (vol_id, connection_info) VALUES (?, ?)", (vol_id, _encoded(connection_info))
            )

    def attached(self, vol_id: str, path: str, attachment: dict[str, Any]) -> None:
        values = (path, _encoded(attachment), attachment.get("multipath_id"), vol_id)
        with self._open() as db:
            db.execute(
                "UPDATE volumes SET path = ?, attachment = ?, multipath_id = ?, updated = datetime('now') "
                "WHERE vol_id = ?",
                values,
            )

    def remove(self, vol_id: str) -> None:
        """Idempotent."""
        with self._open() as db:
            db.execute("DELETE FROM volumes WHERE vol_id = ?", (vol_id,))

    @contextmanager
    def _open(self) -> Iterator["sqlite3.Connection"]:
        import sqlite3  # few hosts have managed volumes, and every process of the agent would carry it

        if not self._file.exists():
            self._file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)  # connections have passwords in them
        try:
            with closing(sqlite3.connect(self._file, timeout=_BUSY_S)) as db:
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'versions'").fetchone():
                    db.executescript(_TABLES)
                (version,) = db.execute("SELECT max(version) FROM versions").fetchone()
                if version != _VERSION:
                    raise RecordsError(f"{self._file} has version {version}, not {_VERSION}")
                with db:
                    yield db
        except sqlite3.IntegrityError as error:
            raise AlreadyRecordedError(str(error)) from error
        except sqlite3.Error as error:
            raise RecordsError(str(error)) from error


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _decoded(value: str | bytes | None) -> dict[str, Any] | None:
    """Raises: RecordsError."""
    if not value:
        return None
    try:
        found = json.loads(value)
    except ValueError as error:
        raise RecordsError(f"a volume is recorded with what is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}
