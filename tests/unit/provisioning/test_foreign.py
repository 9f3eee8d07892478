# SPDX-License-Identifier: Apache-2.0
"""What is added to other programs' files comes out again to the byte, whatever happened to the file meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning import dhcp
from provisioning.foreign import Ledger

_SECTION = 'auth_unix_rw = "none"\n'
_OLD = 1_600_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "libvirtd.conf"
    path.write_bytes(content)
    path.chmod(0o640)
    os.utime(path, (_OLD, _OLD))
    return path


@pytest.mark.parametrize(
    "before", [b"", b"a = 1\n", b"a = 1", b"a = 1\n\n\n", b"# begin of something\n\n", b"# caf\xe9\r\na = 1\r\n"]
)
def test_a_file_that_nobody_touched_is_what_it_was_with_its_times_and_mode(
    tmp_path: Path, ledger: Ledger, before: bytes
) -> None:
    path = _file(tmp_path, before)
    assert ledger.section(path, _SECTION)
    assert not ledger.section(path, _SECTION)
    assert _SECTION.encode() in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o640
    assert ledger.put_back() == [path]
    assert path.read_bytes() == before
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o640, _OLD)
    assert ledger.put_back() == []


def test_a_newer_section_takes_the_place_of_the_older(tmp_path: Path, ledger: Ledger) -> None:
    path = _file(tmp_path, b"a = 1\n")
    ledger.section(path, "old = 1\n")
    assert ledger.section(path, "new = 1\n")
    assert "old" not in path.read_text()
    ledger.put_back()
    assert path.read_bytes() == b"a = 1\n"


def test_a_change_that_was_cut_short_leaves_no_second_section(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path, b"a = 1\n")
    ledger.section(path, "old = 1\n")
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        patched.setattr(Path, "replace", _second_time(InterruptedError()))
        ledger.section(path, "new = 1\n")
    assert ledger.section(path, "new = 1\n")
    assert b"old" not in path.read_bytes()
    ledger.put_back()
    assert path.read_bytes() == b"a = 1\n"


def _second_time(error: OSError) -> Callable[[Path, Path], Path]:
    """`Path.replace` that works once: for the record, and not for the file."""
    replace, calls = Path.replace, list[Path]()

    def failing(old: Path, new: Path) -> Path:
        calls.append(new)
        if len(calls) > 1:
            raise error
        return replace(old, new)

    return failing


@pytest.mark.parametrize("before", [b"a = 1\n", b"a = 1", b"# caf\xe9\r\na = 1\r\n"])
def test_what_an_administrator_wrote_meanwhile_stays(tmp_path: Path, ledger: Ledger, before: bytes) -> None:
    path = _file(tmp_path, before)
    ledger.section(path, _SECTION)
    path.write_bytes(b"b = 2\n" + path.read_bytes() + b"c = 3\n")
    ledger.put_back()
    assert path.read_bytes() == b"b = 2\n" + before + b"c = 3\n"


def test_a_file_replaced_by_its_package_gets_the_section_again_and_is_left_without_it(
    tmp_path: Path, ledger: Ledger
) -> None:
    path = _file(tmp_path, b"version = 1\n")
    ledger.section(path, _SECTION)
    path.write_bytes(b"version = 2\n")
    assert ledger.section(path, _SECTION)
    ledger.put_back()
    assert path.read_bytes() == b"version = 2\n"


def test_a_section_from_before_there_was_a_record_goes_too(tmp_path: Path, ledger: Ledger) -> None:
    path = _file(tmp_path, b"a = 1\n# begin of vdsm-mp\nold = 1\n# end of vdsm-mp\nb = 2\n")
    ledger.section(path, _SECTION)
    ledger.put_back()
    assert path.read_bytes() == b"a = 1\nb = 2\n"


def test_a_file_that_was_not_there_goes_and_one_that_is_gone_stays_away(tmp_path: Path, ledger: Ledger) -> None:
    made, lost = tmp_path / "made.conf", _file(tmp_path, b"a = 1\n")
    ledger.section(made, _SECTION)
    ledger.line(lost, "127.0.1.1\thost")
    lost.unlink()
    assert ledger.put_back() == [made]
    assert not made.exists() and not lost.exists()


def test_the_hook_of_dhclient_stays_while_a_client_needs_it(tmp_path: Path) -> None:
    hook, proc = tmp_path / "vdsm-mp", tmp_path / "proc"
    client = proc / "77"
    client.mkdir(parents=True)
    assert dhcp.forget_hook(hook=hook, proc=proc) is None
    hook.write_text("if …\n")
    (client / "cmdline").write_bytes(b"/usr/sbin/dhclient\0-4\0-e\0VDSM_MP_NO_ROUTE=yes\0eth0\0")
    assert "stays" in (dhcp.forget_hook(hook=hook, proc=proc) or "") and hook.exists()
    (client / "cmdline").write_bytes(b"/usr/sbin/dhclient\0-4\0eth0\0")
    assert dhcp.forget_hook(hook=hook, proc=proc) is None
    assert not hook.exists()
