# SPDX-License-Identifier: Apache-2.0
"""Ending what ends by itself at the same moment, on libvirt's test driver."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest
from msgspec.structs import replace

from tests.support.libvirt_refusal import refusal
from vdsm_mp.api.errors_virt import DestroyFailed
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.ending import Ender, end_if_running
from vdsm_mp.virt.machine import Exit, ExitReason, Life, VmStatus
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms


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


class _Held:
    """A VM that has ended and that libvirtd cannot let go of, and the connection to libvirtd."""

    def __init__(self) -> None:
        self.reconnects = 1
        self.why: int = libvirt.VIR_ERR_OPERATION_TIMEOUT

    def domain(self, _vm_id: str) -> "_Held":
        return self

    def isActive(self) -> bool:
        return False

    def isPersistent(self) -> bool:
        return True

    def undefineFlags(self, flags: int) -> None:
        if self.why:
            raise refusal(self.why, "cannot acquire state change lock (held by monitor=remoteDispatchDomainMigrate)")


def test_who_destroys_a_vm_that_libvirtd_cannot_let_go_of_is_told_what_to_do() -> None:
    connection, vms = _Held(), Vms(cast(Any, SimpleNamespace(publish=lambda event: None)))
    unused = dict.fromkeys(
        ("drives", "starter", "background", "hooks", "payloads", "transients", "backup_files", "pool", "mirrors",
         "hostdevs", "orphans", "keeper"), None,
    )  # fmt: skip
    ender = Ender(cast(Any, connection), vms, stats=SimpleNamespace(forget=lambda vm_id: None), **cast(Any, unused))
    down = replace(Life(), status=VmStatus.DOWN, exit=Exit.because(ExitReason.LOST_QEMU))
    vms.become_known()
    vms.add(VmRecord(vm_id="an-id", name="a-vm", life=down))
    assert ender.kept() == []
    for _ in range(2):
        with pytest.raises(DestroyFailed, match=r"restart libvirtd, guests go on .*Migrate"):
            ender.destroy("an-id", 0)
    assert ender.kept() == ["a-vm"]
    connection.reconnects = 2
    assert ender.kept() == []
    connection.why = libvirt.VIR_ERR_OPERATION_FAILED
    with pytest.raises(DestroyFailed) as failed:
        ender.destroy("an-id", 0)
    assert "restart" not in str(failed.value)
    connection.why = 0
    ender.destroy("an-id", 0)
    assert vms.get("an-id") is None
