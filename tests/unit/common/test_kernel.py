# SPDX-License-Identifier: Apache-2.0
"""Who has a file open, as /proc tells it."""

import fcntl
import os
import threading
from pathlib import Path

from vdsm_mp.common.kernel import who_has_open


def test_a_holder_is_found_though_it_opens_and_closes_other_files_meanwhile(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]:
                os.close(number)

    others = threading.Thread(target=churn)
    others.start()
    try:
        with open(lock, "w") as first, open(fcntl.fcntl(first, fcntl.F_DUPFD, 200)):
            first.close()  # a number behind all those of the others, which are looked at before
            assert {who_has_open(str(lock)) for _ in range(20)} == {os.getpid()}
    finally:
        over.set()
        others.join()


def test_a_file_that_was_removed_is_still_held_and_nobody_holds_one_that_was_closed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with open(lock, "w"):
        lock.unlink()
        assert who_has_open(str(lock)) == os.getpid()
    assert who_has_open(str(lock)) == 0
