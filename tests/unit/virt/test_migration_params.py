# SPDX-License-Identifier: Apache-2.0
"""What an engine asks of a migration, and what libvirt is told."""

from typing import Any

import libvirt
import msgspec
import pytest

from vdsm_mp.api.errors_virt import InvalidVmParameter, MissingVmParameter
from vdsm_mp.api.vm_migration import MigrateVm, MigrationParams
from vdsm_mp.common import xml
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import convergence, migration_params
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.migration_params import NOTE, Note

VM = """<domain type="kvm" xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><name>x</name>
<cputune><vcpupin vcpu="0" cpuset="0-1"/><vcpupin vcpu="1" cpuset="2-3"/></cputune>
<numatune><memnode cellid="0" mode="strict" nodeset="0"/></numatune>
<metadata><ovirt-vm:vm><ovirt-vm:outgoing_migration>{}</ovirt-vm:outgoing_migration></ovirt-vm:vm></metadata>
</domain>"""


def asked(**params: Any) -> MigrationParams:
    """As the engine writes them: most of them are text."""
    sent = {"vmID": "5a6e6cf5-5c62-4b0f-8d0f-3c5f0f3e4b11", "params": {"dst": "10.0.0.2:54321", **params}}
    return msgspec.convert(sent, MigrateVm, strict=False).params


def told(params: MigrationParams) -> dict[str, Any]:
    return migration_params.parameters(params, max_bandwidth=52, live=VM, persistent=VM)


@pytest.mark.parametrize(
    ("dst", "found"),
    [
        ("host.example:54321", ("host.example", 54321)),
        ("host.example", ("host.example", 54321)),
        ("10.0.0.2:1234", ("10.0.0.2", 1234)),
        ("[fd00::2]:1234", ("fd00::2", 1234)),
        ("[fd00::2]", ("fd00::2", 54321)),
        ("fd00::2", ("fd00::2", 54321)),
    ],
)
def test_the_other_agent_is_named_by_host_and_port(dst: str, found: tuple[str, int]) -> None:
    assert migration_params.address(dst) == found


@pytest.mark.parametrize("dst", ["", ":54321", "host:port", "[]:54321", "host:0", "host:65536", "host:²"])
def test_a_destination_that_is_none_is_refused(dst: str) -> None:
    with pytest.raises(MissingVmParameter):
        migration_params.address(dst)


def test_the_words_of_an_engine_become_flags() -> None:
    plain = asked(tunneled="false", compressed="false", autoConverge="false", abortOnError="true", encrypted=False)
    always = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
    plan = migration_params.schedule(plain, Vars())
    assert migration_params.flags(plain, plan) == always | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    full = asked(
        compressed="true", autoConverge="True", encrypted=True, parallel="4", zerocopy=True,
        convergenceSchedule={"init": [], "stalling": [{"limit": "2", "action": {"name": "postcopy", "params": []}}]},
    )  # fmt: skip
    assert migration_params.flags(full, migration_params.schedule(full, Vars())) == (
        always | libvirt.VIR_MIGRATE_COMPRESSED | libvirt.VIR_MIGRATE_AUTO_CONVERGE | libvirt.VIR_MIGRATE_TLS
        | libvirt.VIR_MIGRATE_PARALLEL | libvirt.VIR_MIGRATE_ZEROCOPY | libvirt.VIR_MIGRATE_POSTCOPY
    )  # fmt: skip


def test_the_data_go_where_the_engine_says_and_no_faster() -> None:
    found = told(asked(dstqemu="fd00::9", maxBandwidth="10", parallel=2, encrypted=True))
    assert found["migrate_uri"] == "tcp://[fd00::9]"
    assert (found["bandwidth"], found["parallel.connections"], found["tls.destination"]) == (10, 2, "10.0.0.2")
    found = told(asked())
    assert (found["migrate_uri"], found["bandwidth"]) == ("tcp://10.0.0.2", 52)
    assert "bandwidth" not in told(asked(maxBandwidth=0))
    assert "migrate_uri" not in told(asked(tunneled="true"))


def test_pinning_is_that_of_the_destination_and_the_note_stays_here() -> None:
    for name in ("destination_xml", "persistent_xml"):
        domain = xml.parse(told(asked(cpusets=["4", "5"], numaNodesets=["1"]))[name])
        assert [pin.get("cpuset") for pin in domain.iterfind("cputune/vcpupin")] == ["4", "5"]
        assert [node.get("nodeset") for node in domain.iterfind("numatune/memnode")] == ["1"]
        metadata = Metadata.of_domain(domain)
        assert metadata is not None
        assert metadata.get(NOTE) is None


def test_a_note_is_read_by_the_next_life() -> None:
    params = asked(maxBandwidth=7, cpusets=["1"])
    assert migration_params.read_note(Note(params.dst, params).dump()) == Note(params.dst, params)
    assert migration_params.read_note(None) is None
    assert migration_params.read_note("nonsense") == Note("", MigrationParams())


# -- convergence


def test_the_engines_schedule_goes_step_by_step_as_passes_go_by() -> None:
    params = asked(
        convergenceSchedule={
            "init": [{"name": "setDowntime", "params": ["100"]}],
            "stalling": [
                {"limit": 1, "action": {"name": "setDowntime", "params": ["150"]}},
                {"limit": 3, "action": {"name": "setDowntime", "params": [200]}},
                {"limit": -1, "action": {"name": "abort", "params": []}},
            ],
        }
    )
    plan = migration_params.schedule(params, Vars())
    assert plan.init == (convergence.Action("setDowntime", 100),)
    taken = []
    for passes in range(1, 7):
        action, plan = plan.next(passes)
        taken.append(action and (action.name, action.downtime_ms))
    assert taken == [None, ("setDowntime", 150), None, ("setDowntime", 200), ("abort", 0), None]


@pytest.mark.parametrize(
    "action", [{"name": "reboot"}, {"name": "setDowntime"}, {"name": "setDowntime", "params": ["soon"]}]
)
def test_an_action_that_nobody_knows_is_refused_before_anything_moves(action: dict[str, Any]) -> None:
    with pytest.raises(InvalidVmParameter):
        migration_params.schedule(asked(convergenceSchedule={"init": [action]}), Vars())


def test_without_a_schedule_the_downtime_grows_and_patience_ends() -> None:
    assert convergence.downtimes(500, 5) == [101, 104, 120, 189, 500]
    plan = migration_params.schedule(asked(), Vars())
    assert plan.init == (convergence.Action("setDowntime", 101),)
    assert [(step.limit, step.action.name) for step in plan.stalling] == [
        (1, "setDowntime"), (2, "setDowntime"), (3, "setDowntime"), (4, "setDowntime"), (42, "setDowntime"),
        (-1, "abort"),
    ]  # fmt: skip
    assert migration_params.schedule(asked(downtime="300"), Vars()).stalling[-2].action.downtime_ms == 300
    with pytest.raises(InvalidVmParameter, match="downtime"):
        migration_params.schedule(asked(downtime="-300"), Vars())


def test_progress_is_whole_percent_and_full_only_at_the_end() -> None:
    assert convergence.percent({}) == 0
    assert convergence.percent({"data_total": 1000, "data_remaining": 1}) == 99
    assert convergence.percent({"data_total": 1000, "data_remaining": 2000}) == 0
    assert convergence.percent({"data_total": 3, "data_remaining": 2}) == 34
    assert convergence.percent({"data_total": 1000, "data_remaining": 0}) == 100


def test_downtime_counts_the_network_away_except_in_postcopy() -> None:
    assert convergence.downtime_ms({"downtime": 9, "downtime_net": 5}, postcopy=False) == 5
    assert convergence.downtime_ms({"downtime": 9, "downtime_net": 5}, postcopy=True) == 9
    assert convergence.downtime_ms({"downtime": 9}, postcopy=False) == 9
    assert convergence.downtime_ms({}, postcopy=False) is None
