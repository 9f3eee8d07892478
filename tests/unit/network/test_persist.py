# SPDX-License-Identifier: Apache-2.0
"""The journal of a change: what a death leaves of it, and what a power cut may leave."""

from pathlib import Path

import pytest

from vdsm_mp.network.persist import Store
from vdsm_mp.network.wanted import Config, changed

BEFORE = changed(Config(), {"red": {}}, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "run"), str(tmp_path / "state"))
    made.open()
    return made


def test_the_last_step_is_undone_first(store: Store) -> None:
    assert store.journal() is None
    store.begin_journal(BEFORE)
    store.append_journal([("link-down", {"name": "a"}), ("link-remove", {"name": "a"})])
    store.append_journal([("link-remove", {"name": "b"})])
    journal = store.journal()
    assert journal is not None
    assert journal.before == BEFORE
    assert [(word, p["name"]) for word, p in journal.undo] == [
        ("link-remove", "b"),
        ("link-down", "a"),
        ("link-remove", "a"),
    ]
    store.drop_journal()
    assert store.journal() is None


def test_a_line_that_was_not_written_to_its_end_has_no_step(store: Store, tmp_path: Path) -> None:
    store.begin_journal(None)
    store.append_journal([("link-remove", {"name": "a"})])
    path = tmp_path / "run/network/journal.json"
    whole = path.read_bytes()
    store.append_journal([("link-remove", {"name": "b"})])
    for length in range(len(whole), path.stat().st_size):
        torn = Store(str(tmp_path / "torn"), str(tmp_path / "state"))
        torn.open()
        (tmp_path / "torn/network/journal.json").write_bytes(path.read_bytes()[:length])
        journal = torn.journal()
        assert journal is not None and journal.before is None
        assert journal.undo == (("link-remove", {"name": "a"}),)


def test_a_journal_that_makes_no_sense_keeps_nobody_from_starting(store: Store, tmp_path: Path) -> None:
    for content in (b"", b"{}", b"nonsense\n", b'{"before":null}\n{"a": 1}\n'):
        (tmp_path / "run/network/journal.json").write_bytes(content)
        assert store.journal() is None


def test_what_runs_is_forgotten_when_nothing_did(store: Store) -> None:
    store.keep_running(BEFORE)
    assert store.running() == BEFORE
    store.keep_running(None)
    assert store.running() is None
