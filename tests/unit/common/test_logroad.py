# SPDX-License-Identifier: Apache-2.0
"""The road of log lines: in order, bounded, patient once, and nothing is off it before it is written."""

import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest

from vdsm_mp.common.logroad import MOST_BYTES, PATIENCE_S, Road


class Paper(logging.Handler):
    """What was written; `stop`: raised instead of writing the next line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.stop: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if (stop := self.stop) is not None:
            self.stop = None
            raise stop
        self.lines.append(f"{record.levelno} {record.name} {self.format(record)}")


@pytest.fixture
def road() -> Iterator[Road]:
    made = Road()
    yield made
    made.start.close()
    made.end.close()


def say(road: Road, words: str, number: int = 0) -> None:
    record = logging.LogRecord("virt", logging.INFO, "", 0, "%s", (words,), None)
    road.send(number, record, lambda record: record.getMessage())


def written(road: Road, *papers: Paper) -> int:
    """Close the road and write all that is on it; how often files were opened again."""
    opened: list[int] = []
    road.start.close()
    road.write_all(papers, lambda: opened.append(1))
    return len(opened)


def test_lines_come_in_order_to_the_handler_they_are_for(road: Road) -> None:
    one, two = Paper(), Paper()
    for number, words in enumerate(("first", "second\nand its traceback", "third", "caf\u00e9 \udcff")):
        say(road, words, number % 2)
    road.reopen()
    assert road.waiting_bytes() > 0
    assert written(road, one, two) == 1
    assert one.lines == ["20 virt first", "20 virt third"]
    assert two.lines == ["20 virt second\nand its traceback", "20 virt caf\u00e9 \\udcff"]


def test_what_is_too_long_is_cut(road: Road) -> None:
    paper = Paper()
    say(road, "x" * (2 * MOST_BYTES))
    written(road, paper)
    assert MOST_BYTES - 100 < len(paper.lines[0]) <= MOST_BYTES


def test_nobody_waits_long_for_a_writer_that_hangs_and_what_is_lost_is_counted(road: Road) -> None:
    began, most = time.monotonic(), 20_000
    for number in range(most):
        say(road, f"line {number}")
        if road.lost >= 1000:
            break
    assert road.lost == 1000
    assert time.monotonic() - began < 1000 * PATIENCE_S / 4
    paper = Paper()
    reader = threading.Thread(target=road.write_all, args=((paper,), lambda: None))
    reader.start()
    while road.waiting_bytes():
        time.sleep(0.01)
    say(road, "after all")
    assert road.lost == 0
    road.start.close()
    reader.join(10)
    assert paper.lines[-2:] == [
        "30 virt 1000 lines before this one are lost: nobody wrote them",
        "20 virt after all",
    ]
    assert paper.lines[0] == "20 virt line 0"
    assert road.written == len(paper.lines)


def test_what_a_dying_writer_held_is_written_by_the_next(road: Road) -> None:
    paper = Paper()
    paper.stop = SystemExit()
    say(road, "only one")
    with pytest.raises(SystemExit):
        road.write_all((paper,), lambda: None)
    assert road.waiting_bytes() and not paper.lines
    written(road, paper)
    assert paper.lines == ["20 virt only one"]


def test_many_processes_send_whole_lines(road: Road) -> None:
    children = []
    for name in "abcd":
        pid = os.fork()
        if pid == 0:
            for number in range(50):
                say(road, f"{name} {number} {name * 500}")
            os._exit(0)
        children.append(pid)
    paper = Paper()
    reader = threading.Thread(target=road.write_all, args=((paper,), lambda: None))
    reader.start()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    road.start.close()
    reader.join(10)
    for name in "abcd":
        mine = [line for line in paper.lines if line.startswith(f"20 virt {name} ")]
        assert mine == [f"20 virt {name} {number} {name * 500}" for number in range(50)]
