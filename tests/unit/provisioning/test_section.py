# SPDX-License-Identifier: Apache-2.0
"""An older section of supervisord's that somebody has changed: root writes no log where user vdsm could put a link."""

from pathlib import Path

from provisioning import section

_SHIPPED = Path(__file__).parents[3] / "supervisor/vdsm.conf"
_OLD = """\
[program:vdsm]
command=/usr/bin/vdsm-mp master
startretries=3  ; the host's
stdout_logfile = /var/log/vdsm/supervisor-vdsm.log ; where it was
stdout_logfile_maxbytes=10MB

[program:vdsm-metrics]
stdout_logfile=/var/log/vdsm/supervisor-vdsm-metrics.log
"""


def test_what_was_changed_stays_but_for_the_logs(tmp_path: Path) -> None:
    path, link = tmp_path / "supervisor.conf", tmp_path / "vdsm.conf"
    path.write_text(_OLD)
    path.chmod(0o600)
    link.symlink_to(path)
    (note,) = section.mend(link)
    assert "in /var/log now" in note
    assert path.read_text() == _OLD.replace(
        "/var/log/vdsm/supervisor-vdsm.log", "/var/log/vdsm-mp-supervisor.log"
    ).replace("/var/log/vdsm/supervisor-vdsm-metrics.log", "/var/log/vdsm-mp-metrics.log")
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert section.mend(link) == []


def test_another_file_there_is_only_told_of(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.conf"
    path.write_bytes(
        b"# \xe4\n[program:vdsm]\nstderr_logfile=/var/log/vdsm/mine.log\n; stdout_logfile=/var/log/vdsm/x\n"
    )
    before = path.read_bytes()
    (note,) = section.mend(path)
    assert "/var/log/vdsm/mine.log" in note and "root" in note
    assert path.read_bytes() == before


def test_the_shipped_section_needs_no_mending(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.conf"
    path.write_text(_SHIPPED.read_text())
    assert section.mend(path) == []
    assert section.mend(tmp_path / "none") == []
