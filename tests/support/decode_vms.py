# SPDX-License-Identifier: Apache-2.0
"""What an engine reads of virtual machines. See `tests.support.decode`."""

from typing import Any

from tests.support.decoding import Table, check, check_whole
from tests.support.rules import (
    Undecodable,
    bare_integer,
    integer,
    list_of,
    map_of,
    obj,
    one_of,
    record,
    text,
    text_boolean,
    text_double,
    text_integer,
    uuid,
)

VM_STATUSES = (
    "WaitForLaunch", "Powering up", "Up", "Paused", "Powering down", "RebootInProgress", "Saving State",
    "Restoring state", "Migration Source", "Migration Destination", "Down",
)  # fmt: skip


_VM_DISK = record(
    {},
    {
        "imageID": text, "lunGUID": text, "readRate": text_double, "writeRate": text_double,
        **dict.fromkeys(
            (
                "readOps",
                "writeOps",
                "truesize",
                "apparentsize",
                "readLatency",
                "writeLatency",
                "flushLatency",
            ),
            text_integer,
        ),
    },
)  # fmt: skip


_VM_NIC = record({"name": text, "macAddr": text}, dict.fromkeys(("rx", "tx", "rxDropped", "txDropped"), text_integer))
_VM_JOB = record({
    "id": uuid, "jobType": one_of("block"), "blockJobType": text, "bandwidth": bare_integer, "cur": text_integer,
    "end": text_integer, "imgUUID": uuid, "drive": text,
})  # fmt: skip


VM_STATS_MUST: Table = {"vmId": uuid, "status": one_of(*VM_STATUSES), "statusTime": text_integer}


VM_STATS_MAY: Table = {
    "cpuUser": text_double, "cpuSys": text_double, "elapsedTime": text_integer, "memUsage": text_integer,
    "hash": text, "vmName": text, "vmType": text, "kvmEnable": text_boolean, "acpiEnable": text_boolean,
    "monitorResponse": text_integer, "clientIp": text, "timeOffset": text_integer,
    "pauseCode": one_of("NOERR", "EIO", "ENOSPC", "EPERM", "EOTHER", "POSTCOPY"),
    "exitCode": one_of(0, 1, 2, "0", "1", "2"), "exitReason": integer, "exitMessage": text,
    "network": map_of(_VM_NIC), "disks": map_of(_VM_DISK),
    "displayInfo": list_of(record({"type": one_of("vnc", "spice"), "port": text, "tlsPort": text, "ipAddress": text})),
    "balloonInfo": record({}, {f"balloon_{k}": text_integer for k in ("cur", "max", "min", "target")}),
    "vmJobs": map_of(_VM_JOB, uuid),
    "guestFQDN": text, "guestIPs": text, "username": text,
    "session": one_of("Unknown", "UserLoggedOn", "Locked", "Active", "LoggedOff"),
    "guestCPUCount": bare_integer, "memoryStats": obj,
    "netIfaces": list_of(record({"name": text}, {"hw": text, "inet": list_of(text), "inet6": list_of(text)})),
    "appsList": list_of(text), "disksUsage": list_of(obj), "guestOs": text, "guestOsInfo": obj,
    "guestTimezone": record({"offset": bare_integer}, {"zone": text}), "guestName": text,
    "migrationProgress": bare_integer, "watchdogEvent": obj, "tpmHash": text, "nvramHash": text, "cdrom": text,
    "ioTune": list_of(obj), "vcpuCount": integer, "vcpuQuota": text, "vcpuPeriod": integer,
}  # fmt: skip


#: What a VM must report besides, while QEMU runs.
RUNNING_MUST = (
    "elapsedTime", "monitorResponse", "vmName", "vmType", "kvmEnable", "acpiEnable", "vmJobs", "cpuUser", "cpuSys",
    "memUsage", "username", "session", "guestCPUCount", "appsList", "guestIPs", "guestFQDN", "clientIp", "timeOffset",
    "pauseCode", "displayInfo",
)  # fmt: skip


def check_vm_stats(answer: Any, *, running: bool = False) -> Any:
    """One entry of `Host.getAllVmStats`. running: it must also carry what a running VM reports."""
    must = {**VM_STATS_MUST, **{name: VM_STATS_MAY[name] for name in RUNNING_MUST if running}}
    extra = []
    if isinstance(answer, dict) and answer.get("status") == "Down":
        extra = [f"{name}: missing in a VM that is Down" for name in ("exitCode", "exitReason") if name not in answer]
    return check("VM report", answer, must, VM_STATS_MAY, extra)


def check_all_vm_stats(answer: Any) -> Any:
    """`Host.getAllVmStats` (and `VM.getStats`, which is a list of one)."""
    if not isinstance(answer, list):
        raise Undecodable("VM list", ["a list is needed"])
    for entry in answer:
        check_vm_stats(entry)
    return answer


def check_vm_created(answer: Any) -> Any:
    """`VM.create`: answered before QEMU runs."""
    return check(
        "created VM", answer, {"vmId": uuid, "status": one_of("WaitForLaunch", "Restoring state")}, {"vmName": text}
    )


def check_vm_definition(answer: Any) -> Any:
    """`VM.changeCD`, `VM.updateDevice`: the VM's definition; only who it is matters."""
    return check("VM definition", answer, {"vmId": uuid})


def check_vm_list(answer: Any) -> Any:
    """`Host.getVMList`: who is there, in what state."""
    wrong = list_of(record({"vmId": uuid, "status": one_of(*VM_STATUSES), "statusTime": text_integer}))(answer)
    return check("VM list", {}, {}, {}, [wrong] if wrong else []) or answer


def check_vm_list_object(answer: Any) -> Any:
    """`VM.cont`, `VM.pause`: {"vmList": {}}."""
    return check("answer", answer, {"vmList": obj})


_EVENT_MAY: Table = {k: v for k, v in VM_STATS_MAY.items() if k not in ("disks", "network")}


def check_vm_event(params: Any) -> Any:
    """`params` of a VM_status event: notify_time and VM ids, nothing else; another key loses the event."""
    extra = []
    for key, value in params.items() if isinstance(params, dict) else ():
        if key != "notify_time":
            wrong = uuid(key) or record({"status": one_of(*VM_STATUSES)}, _EVENT_MAY)(value)
            extra += [f"{key}: {wrong}"] if wrong else []
    return check("VM_status event", params, {"notify_time": notify_time}, {}, extra)


def notify_time(value: Any) -> str | None:
    """A JSON integer, milliseconds of the monotonic clock + 2^31-1."""
    if not isinstance(value, int) or isinstance(value, bool):
        return "must be a JSON integer"
    return None if value >= 2**31 - 1 else f"{value} lacks the offset 2^31-1"


def check_backup(answer: Any) -> Any:
    """`VM.start_backup`, `VM.backup_info`."""
    return check_whole("backup", answer, {"disks": map_of(text, uuid)}, {"checkpoint": text})


def check_checkpoints(answer: Any) -> Any:
    """`VM.delete_checkpoints`, `VM.redefine_checkpoints`."""
    error = record({"code": bare_integer, "message": text})
    return check_whole("checkpoint list", answer, {"checkpoint_ids": list_of(uuid)}, {"error": error})


def check_migration_status(answer: Any) -> Any:
    """`VM.getMigrationStatus`; `downtime` is cast to an integer."""
    return check("migration status", answer, {}, {"progress": bare_integer, "downtime": bare_integer})
