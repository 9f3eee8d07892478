# SPDX-License-Identifier: Apache-2.0
"""The shape of a line, and logger.conf's mistakes."""

import json
import logging
import logging.handlers
import os
import sys
from datetime import datetime
from pathlib import Path

import pytest

from vdsm_mp.common import log


def _line(name: str, message: str, level: int = logging.INFO) -> str:
    return log.Formatter().format(logging.LogRecord(name, level, __file__, 1, message, (), None))


def test_a_line_names_level_place_and_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "process_name", "virt")
    token = log.flow.set("1f3a")
    try:
        assert _line("virt.lifecycle", "VM.pause took=5ms").endswith(
            " INFO  virt.lifecycle flow=1f3a VM.pause took=5ms"
        )
    finally:
        log.flow.reset(token)
    assert _line("ipc.runner", "ready", logging.WARNING).endswith(" WARN  virt.ipc.runner ready")


def test_a_message_cannot_forge_a_second_line() -> None:
    assert "\n" not in _line("wire", "bye\n2026-01-01 00:00:00.000 INFO  master all is well")


def test_a_json_line_is_one_object_whatever_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "process_name", "virt")
    token = log.flow.set("1f3a")
    try:
        raise ValueError("no\nsuch \u2028 thing")
    except ValueError:
        record = logging.LogRecord("virt.vm", logging.ERROR, __file__, 1, "a\n%s", ('"ä"',), sys.exc_info())
        text = log.JsonFormatter().format(record)
    finally:
        log.flow.reset(token)
    line = json.loads(text)
    assert len(text.split("\n")) == 1
    assert (line["level"], line["logger"], line["flow"], line["message"]) == ("ERROR", "virt.vm", "1f3a", 'a\n"ä"')
    assert line["pid"] == os.getpid()
    assert "ValueError: no" in line["exception"]
    seen = datetime.fromisoformat(line["time"])
    assert abs(seen.timestamp() - record.created) < 0.002
    plain = json.loads(log.JsonFormatter().format(logging.LogRecord("root", 5, __file__, 1, "x" * 10**6, (), None)))
    assert (plain["level"], plain["logger"]) == ("TRACE", "virt")
    assert "flow" not in plain
    assert len(plain["message"]) < 48 * 1024


def test_the_configuration_that_is_delivered_knows_both_shapes(tmp_path: Path) -> None:
    kept, level = list(logging.getLogger().handlers), logging.getLogger().level
    text = (Path(__file__).parents[3] / "etc" / "logger.conf").read_text()
    (tmp_path / "logger.conf").write_text(text.replace("formatter=line\nargs=('%(log", "formatter=json\nargs=('%(log"))
    try:
        log.configure(tmp_path / "logger.conf", {"log_dir": str(tmp_path)})
        logging.getLogger("virt").warning("told")
    finally:
        for handler in set(logging.getLogger().handlers) - set(kept):
            handler.close()
        logging.getLogger().handlers, logging.getLogger().level = kept, level
    assert json.loads((tmp_path / "vdsm.log").read_text().splitlines()[-1])["message"] == "told"


def test_a_bad_logger_conf_is_named_with_its_fault(tmp_path: Path) -> None:
    with pytest.raises(log.LoggerConfigError, match="no such file"):
        log.configure(tmp_path / "logger.conf", {})
    (tmp_path / "logger.conf").write_text("[loggers]\nkeys=root\n")
    with pytest.raises(log.LoggerConfigError, match=r"logger\.conf: KeyError: 'formatters'"):
        log.configure(tmp_path / "logger.conf", {})


def test_a_log_that_cannot_be_written_ends_nobody_and_the_lost_lines_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    handler = logging.handlers.WatchedFileHandler(folder / "x.log")
    handler.setFormatter(log.Formatter())
    log._outlive_trouble(handler)
    record = logging.LogRecord("virt", logging.INFO, __file__, 1, "well", (), None)
    handler.handle(record)
    folder.rename(tmp_path / "away")
    folder.write_text("a file where the folder was")
    for _ in range(3):
        handler.handle(record)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    (folder / "x.log").unlink()
    handler.handle(record)
    handler.close()
    lines = (folder / "x.log").read_text().splitlines()
    assert lines[0].endswith("well")
    assert lines[1].endswith("3 lines before this one could not be written")


def test_a_full_disk_under_the_log_ends_nobody(tmp_path: Path) -> None:
    handler = logging.FileHandler("/dev/full")
    log._outlive_trouble(handler)
    record = logging.LogRecord("virt", logging.INFO, __file__, 1, "well", (), None)
    handler.handle(record)
    handler.handle(record)
    with pytest.raises(OSError, match="No space"):
        handler.close()
    handler.baseFilename = str(tmp_path / "x.log")
    handler.handle(record)
    handler.close()
    assert "2 lines" in (tmp_path / "x.log").read_text()
