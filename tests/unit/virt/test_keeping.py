# SPDX-License-Identifier: Apache-2.0
"""What stands in a domain when two write beside each other, on libvirt's own test driver."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from vdsm_mp.api.errors_virt import VmNotResponding
from vdsm_mp.virt import keeping
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.metadata import VM_URI
from vdsm_mp.virt.patience import decided
from vdsm_mp.virt.records import VmRecord

#: A host of its own: what is written into the driver's default one is there for all tests of this process.
_HOST = """<node><domain type="test"><name>test</name><memory>8192</memory>
<os><type arch="x86_64">hvm</type></os></domain></node>"""
ELEMENT = libvirt.VIR_DOMAIN_METADATA_ELEMENT


class Line:
    """A domain of which libvirt does first what came last: `meanwhile`, of another thread, before what is asked."""

    def __init__(self, folder: Path) -> None:
        (folder / "host.xml").write_text(_HOST)
        self._conn = libvirt.open(f"test://{folder}/host.xml")
        self.dom = self._conn.lookupByName("test")
        self.meanwhile: Callable[[], None] | None = None

    def controlInfo(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_CONTROL_OK, 0, 0]

    def isActive(self) -> int:
        return int(self.dom.isActive())

    def setMetadata(self, *args: Any) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return int(self.dom.setMetadata(*args))


class Records:
    """The one VM."""

    def __init__(self) -> None:
        self.record = VmRecord(vm_id="x", name="x")
        self.dead = False

    def get(self, vm_id: str) -> VmRecord:
        return self.record

    def change(self, vm_id: str, how: Callable[[VmRecord], VmRecord]) -> None:
        if self.dead:
            raise SystemExit
        self.record = how(self.record)


def test_who_waits_for_libvirt_undoes_nothing_that_is_noted_meanwhile(tmp_path: Path) -> None:
    """Not even for a moment: who waits may die in it, and libvirt does what it was asked all the same."""
    line, records = Line(tmp_path), Records()
    connection = SimpleNamespace(domain=lambda vm_id: line, age_s=60.0)
    keeper = Keeper(cast(Any, connection), cast(Any, records))
    keeper.remember("x", before=1)

    def another_notes_then_we_die() -> None:
        keeper.remember("x", newer=1)
        records.dead = True

    line.meanwhile = another_notes_then_we_die
    try:
        keeper.take_turn("x")
    except SystemExit:
        pass
    assert line.meanwhile is None  # it was asked
    assert "newer" in line.dom.metadata(ELEMENT, VM_URI)
    assert "before" in line.dom.metadata(ELEMENT, VM_URI)


def test_what_libvirt_has_read_and_not_begun_is_given_time_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libvirtd that stood still has old questions and new ones at the same moment."""
    monkeypatch.setattr(keeping, "SETTLES_S", 0.3)
    line, reached = Line(tmp_path), time.monotonic()

    class Reached:
        """Just now."""

        @property
        def age_s(self) -> float:
            return time.monotonic() - reached

        def domain(self, vm_id: str) -> Line:
            return line

    keeper, asked = Keeper(cast(Any, Reached()), cast(Any, Records())), list[float]()
    line.meanwhile = lambda: asked.append(time.monotonic())
    with pytest.raises(VmNotResponding):
        keeper.take_turn("x")
    assert asked == []
    decided(lambda: keeper.take_turn("x"))
    assert asked[0] >= reached + 0.3
    keeper.take_turn("x")
