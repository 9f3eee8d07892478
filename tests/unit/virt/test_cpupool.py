# SPDX-License-Identifier: Apache-2.0
"""Who may run on which processor: the rest that policies leave, and pins that do not travel."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.libvirt_refusal import refusal
from vdsm_mp.api.errors_virt import SetNumberOfCpusFailed
from vdsm_mp.api.vm_tuning import SetVmNumberOfCpus
from vdsm_mp.common import xml
from vdsm_mp.virt import cpupool
from vdsm_mp.virt.cpu import set_number_of_cpus
from vdsm_mp.virt.cpusets import numbers
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Devices, VmRecord

#: Two cores of two threads.
CPUS = {0: frozenset({0, 1}), 1: frozenset({0, 1}), 2: frozenset({2, 3}), 3: frozenset({2, 3})}
PINS = '<cputune><vcpupin vcpu="0" cpuset="1"/><vcpupin vcpu="2" cpuset="0-3,^1"/></cputune>'


def vm(policy: str, *cpus: int) -> VmRecord:
    pins = {number: frozenset({cpu}) for number, cpu in enumerate(cpus)}
    metadata = Metadata().with_values(cpuPolicy=policy)
    return VmRecord(vm_id=policy, name=policy, metadata=metadata, devices=Devices(pins=pins))


@pytest.mark.parametrize(
    ("records", "left"),
    [
        ([], {0, 1, 2, 3}),
        ([vm("none", 0), vm("manual", 1)], {0, 1, 2, 3}),
        ([vm("dedicated", 1)], {0, 2, 3}),
        ([vm("siblings", 1)], {2, 3}),
        ([vm("isolate-threads", 1), vm("dedicated", 2)], {3}),
        ([vm("siblings", 0, 2)], set()),
        ([vm("dedicated", 7)], {0, 1, 2, 3}),
    ],
)
def test_the_rest_is_what_policies_leave(records: list[VmRecord], left: set[int]) -> None:
    assert cpupool.shared(CPUS, records) == left


def test_what_an_engine_pinned_is_noted_and_everything_else_does_not_travel() -> None:
    domain = xml.parse(f"<domain>{PINS}</domain>")
    noted = cpupool.noted(Metadata(), domain)
    assert (noted.get("cpuPolicy"), noted.get("manuallyPinedCPUs")) == ("manual", "0,2")
    noted.put_into(domain)
    tune = domain.find("cputune")
    assert tune is not None
    xml.add(tune, "vcpupin", vcpu="1", cpuset="0")
    cpupool.without_ours(domain)
    assert [pin.get("vcpu") for pin in tune] == ["0", "2"]

    plain = cpupool.noted(Metadata(), xml.parse("<domain/>"))
    assert (plain.get("cpuPolicy"), plain.get("manuallyPinedCPUs")) == ("none", None)
    plain.put_into(domain)
    cpupool.without_ours(domain)
    assert list(tune) == []

    domain = xml.parse(f"<domain>{PINS}</domain>")
    cpupool.noted(Metadata().with_values(cpuPolicy="dedicated"), domain).put_into(domain)
    cpupool.without_ours(domain)
    assert len(domain.findall("cputune/vcpupin")) == 2


def test_the_kernel_tells_which_processors_there_are(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("0-1,3\n")
    for cpu, threads in ((0, "0-1"), (1, "0-1")):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(threads + "\n")
    assert cpupool.topology(tmp_path) == {0: {0, 1}, 1: {0, 1}, 3: {3}}
    assert cpupool.topology()  # of this machine


@pytest.mark.parametrize("text", ["a", "1-", "-1", "9999", "1,,^", "0-5000"])
def test_sets_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bad set"):
        numbers(text)


def test_cpus_that_were_added_before_a_pin_failed_get_their_place_all_the_same() -> None:
    said: list[str] = []

    def refused(*args: Any) -> None:
        raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "cannot set CPU affinity")

    dom = SimpleNamespace(setVcpusFlags=lambda *args: said.append("added"), pinVcpuFlags=refused)
    devices = SimpleNamespace(
        vms=SimpleNamespace(running=lambda *args: vm("none")),
        connection=SimpleNamespace(domain=lambda vm_id: dom),
        changed=lambda vm_id: said.append("told"),
    )
    hooks, pool = SimpleNamespace(before=lambda *args: None), SimpleNamespace(changed=lambda: said.append("pinned"))
    cpu = str(min(cpupool.topology()))
    ask = SetVmNumberOfCpus(vm_id="x", number_of_cpus=2, cpusets=[cpu])
    with pytest.raises(SetNumberOfCpusFailed):
        set_number_of_cpus(cast(Any, devices), cast(Any, hooks), cast(Any, pool), ask)
    assert said == ["added", "told", "pinned"]
