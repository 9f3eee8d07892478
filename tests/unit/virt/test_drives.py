# SPDX-License-Identifier: Apache-2.0
"""Giving images back to storage that is away meanwhile."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.background import HeldBackground
from tests.support.eventually import eventually
from tests.support.virt_room import RecordedStorage
from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.errors_virt import DiskNotFound
from vdsm_mp.api.internal import TeardownDrive
from vdsm_mp.api.verb import Message
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.records import VolumeIds


class Bench:
    def __init__(self) -> None:
        self.storage, self.background = RecordedStorage(), HeldBackground()
        self.drives = Drives(self.storage, self.background)
        self.ids = VolumeIds(*(str(uuid.uuid4()) for _ in range(4)))

    def time_passes(self) -> None:
        """What waits now runs; what it puts off waits for the next time."""
        jobs, self.background.waiting = self.background.waiting, []
        for _, job in jobs:
            job()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_image_that_storage_could_not_take_back_is_given_back_later(bench: Bench) -> None:
    bench.storage.away = StillStarting()
    bench.drives.teardown(bench.ids)
    bench.time_passes()
    assert bench.storage.released == []
    bench.storage.away = None
    bench.time_passes()
    assert bench.storage.released == [bench.ids.image_id]
    assert bench.background.waiting == []


def test_an_image_that_is_used_again_meanwhile_is_not_taken_away(bench: Bench) -> None:
    bench.storage.away = StillStarting()
    bench.drives.teardown(bench.ids)
    with pytest.raises(DiskNotFound):
        bench.drives.prepare(bench.ids)
    bench.storage.away = None
    bench.time_passes()
    assert bench.storage.released == []
    assert bench.background.waiting == []


def test_the_same_image_of_another_domain_is_given_back_all_the_same(bench: Bench) -> None:
    """As of a disk that moves between domains: its source is prepared anew, its target is not."""
    bench.storage.away = StillStarting()
    target = replace(bench.ids, sd_id=str(uuid.uuid4()))
    bench.drives.teardown(target)
    with pytest.raises(DiskNotFound):
        bench.drives.prepare(bench.ids)
    bench.storage.away = None
    bench.time_passes()
    assert bench.storage.released == [target.image_id]
    assert bench.background.waiting == []


def test_an_image_is_not_given_back_to_who_is_just_preparing_it(bench: Bench, tmp_path: Path) -> None:
    """Whether it is needed is asked when that is decided, and who comes later finds it given back."""
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    bench.storage.images[bench.ids.image_id] = image
    bench.storage.gate.clear()
    needed = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        comes = threads.submit(bench.drives.prepare, bench.ids)
        eventually(lambda: bench.storage.waiting == 1)
        goes = threads.submit(bench.drives.teardown, bench.ids, unless=needed.is_set)
        assert not wait([goes], 0.3).done
        needed.set()
        bench.storage.gate.set()
        comes.result(10)
        goes.result(10)
    assert bench.storage.released == []
    bench.drives.teardown(bench.ids)
    assert bench.storage.released == [bench.ids.image_id]


def test_an_image_is_not_prepared_while_it_is_given_back(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    bench.storage.images[bench.ids.image_id] = image
    asked = bench.storage.ask
    begun, go_on = threading.Event(), threading.Event()

    def ask(message: Message, *, deadline_s: float | None = None) -> Any:
        if isinstance(message, TeardownDrive):
            begun.set()
            go_on.wait(10)
        return asked(message, deadline_s=deadline_s)

    bench.storage.ask = ask  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as threads:
        goes = threads.submit(bench.drives.teardown, bench.ids)
        assert begun.wait(10)
        comes = threads.submit(bench.drives.prepare, bench.ids)
        assert not wait([comes], 0.3).done
        assert bench.storage.prepared == []
        go_on.set()
        goes.result(10)
        comes.result(10)
    assert bench.storage.released == [bench.ids.image_id]


def test_what_is_owed_is_not_given_back_when_somebody_needs_it_by_then(bench: Bench) -> None:
    bench.storage.away = StillStarting()
    needed = threading.Event()
    bench.drives.teardown(bench.ids, unless=needed.is_set)
    bench.storage.away = None
    needed.set()
    bench.time_passes()
    assert bench.storage.released == []
    assert bench.background.waiting == []


def test_a_refusal_is_not_asked_again(bench: Bench) -> None:
    bench.storage.away = DiskNotFound(bench.ids.image_id)
    bench.drives.teardown(bench.ids)
    assert bench.background.waiting == []


def test_storage_that_dies_over_a_preparation_is_asked_again(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    bench.storage.images[bench.ids.image_id] = image
    failures: list[Exception] = [PeerRestarted("storage", "internal.prepare_drive"), StillStarting()]
    asked = bench.storage.ask

    def ask(message: Message, *, deadline_s: float | None = None) -> Any:
        if failures:
            raise failures.pop(0)
        return asked(message, deadline_s=deadline_s)

    bench.storage.ask = ask  # type: ignore[method-assign]
    assert bench.drives.prepare(bench.ids).path == str(image)
    bench.background.draining = True
    failures.append(StillStarting())
    with pytest.raises(StillStarting):
        bench.drives.prepare(bench.ids)


def test_what_is_owed_is_bounded_and_asked_for_in_one_round(bench: Bench) -> None:
    bench.storage.away = StillStarting()
    for _ in range(1100):
        bench.drives.teardown(VolumeIds(*(str(uuid.uuid4()) for _ in range(4))))
    assert len(bench.background.waiting) == 1
    bench.storage.away = None
    bench.time_passes()
    assert len(bench.storage.released) == 1000
