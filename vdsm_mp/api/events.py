# SPDX-License-Identifier: Apache-2.0
"""The events: the four public families, and what the workers tell each other."""

from typing import Any

from msgspec import UNSET, UnsetType

from vdsm_mp.api.event import event
from vdsm_mp.api.verb import Message


@event("virt.vm_status", public="|virt|VM_status|{vm_id}", last_value_by="vm_id")
class VmStatusChanged(Message, frozen=True, kw_only=True):
    """A VM changed state, or something the engine follows between polls. Published after the registry is updated."""

    vm_id: str
    #: `status` always; every key present is new truth for the engine, absent keys stay as they were.
    info: dict[str, Any]
    notify_time: int

    def params(self) -> dict[str, object]:
        return {self.vm_id: self.info}


@event("virt.vm_migration_status", public="|virt|VM_migration_status|{vm_id}")
class VmMigrationProgress(Message, frozen=True, kw_only=True):
    """The source's view of a migration. progress: whole percent; downtime_ms: only at the end."""

    vm_id: str
    progress: int
    postcopy: bool
    notify_time: int
    downtime_ms: int | UnsetType = UNSET

    def params(self) -> dict[str, object]:
        info: dict[str, object] = {"progress": self.progress, "postcopy": self.postcopy}
        if self.downtime_ms is not UNSET:
            info["downtime"] = self.downtime_ms
        return {self.vm_id: info}


@event("network.host_conn", public="|net|host_conn|no_id")
class HostConnectivityChanged(Message, frozen=True, kw_only=True):
    """A bond failed over or a DHCP address changed: the engine reads the capabilities again."""

    notify_time: int

    def params(self) -> dict[str, object]:
        return {}


@event("jobs.status", public="|jobs|status|{job_id}")
class JobChanged(Message, frozen=True, kw_only=True):
    """A host job ended or was aborted. info: as in Host.getJobs."""

    job_id: str
    info: dict[str, Any]
    notify_time: int

    def params(self) -> dict[str, object]:
        return dict(self.info)


@event("storage.domain_valid", last_value_by="sd_id")
class DomainValidityChanged(Message, frozen=True, kw_only=True):
    """The monitor's verdict on a storage domain changed. virt resumes guests paused by I/O errors on `valid`."""

    sd_id: str
    valid: bool
    gone: bool = False  #: no longer monitored


@event("house.log_level", last_value_by="logger")
class LogLevelChanged(Message, frozen=True, kw_only=True):
    """Host.setLogLevel: every worker follows, one that starts later too. logger: "" is the root."""

    logger: str
    level: str
