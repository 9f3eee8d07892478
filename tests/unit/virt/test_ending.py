# SPDX-License-Identifier: Apache-2.0
"""Ending what ends by itself at the same moment, on libvirt's test driver."""

from pathlib import Path
from typing import Any

import libvirt
import pytest

from vdsm_mp.common.errors import Error
from vdsm_mp.virt.ending import end_if_running


class _Late:
    """A domain that is told as running once more after it has ended."""

    def __init__(self, dom: Any, looks: int) -> None:
        self._dom, self._looks = dom, looks

    def isActive(self) -> bool:
        self._looks -= 1
        return self._looks >= 0 or bool(self._dom.isActive())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dom, name)


class _Connection:
    def __init__(self, dom: Any) -> None:
        self._dom = dom

    def domain(self, _vm_id: str) -> Any:
        return self._dom


@pytest.fixture
def ended(tmp_path: Path) -> Any:
    """Of a driver of its own: the default one is shared by all tests of a process."""
    (tmp_path / "node.xml").write_text(
        '<node><domain type="test"><name>test</name><memory>1024</memory><os><type>hvm</type></os></domain></node>'
    )
    conn = libvirt.open(f"test://{tmp_path}/node.xml")
    dom = conn.lookupByName("test")
    dom.destroy()
    yield dom
    conn.close()


def test_a_domain_that_ended_by_itself_meanwhile_is_what_was_wanted(ended: Any) -> None:
    end_if_running(_Connection(_Late(ended, looks=1)), "vm")  # type: ignore[arg-type]


def test_a_domain_that_runs_on_though_it_was_to_end_is_told(ended: Any) -> None:
    with pytest.raises(Error):
        end_if_running(_Connection(_Late(ended, looks=2)), "vm")  # type: ignore[arg-type]
