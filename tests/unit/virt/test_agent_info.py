# SPDX-License-Identifier: Apache-2.0
"""What a guest tells of itself, in the engine's words and within bounds."""

import json
import uuid

from tests.support import decode
from vdsm_mp.virt.agent_info import abilities, answer, merged, network, pci_devices, processors, telling

LINUX = {
    "user.count": 2, "user.0.name": "root", "user.0.login-time": 1, "user.1.name": "ada", "user.1.domain": "lab",
    "os.id": "debian", "os.name": "Debian GNU/Linux", "os.version-id": "12", "os.kernel-release": "6.1.0-9-amd64",
    "os.machine": "x86_64", "os.pretty-name": "Debian GNU/Linux 12 (bookworm)", "hostname": "guest.lab",
    "timezone.name": "CET", "timezone.offset": 3600, "fs.count": 1, "fs.0.mountpoint": "/", "fs.0.fstype": "ext4",
    "fs.0.total-bytes": 1000, "fs.0.used-bytes": 10, "disk.count": 2, "disk.0.name": "/dev/sda", "disk.0.serial": "s1",
    "disk.1.name": "/dev/sdb",
}  # fmt: skip


def as_stats(told: dict[str, object]) -> None:
    decode.check_vm_stats({"vmId": str(uuid.uuid4()), "status": "Up", "statusTime": "1", **told})


def test_a_linux_guest_is_told_in_the_engines_words() -> None:
    told = telling(LINUX)
    as_stats(told)
    assert told["username"] == "root, ada@lab"
    assert (told["session"], told["guestFQDN"], told["guestOs"]) == ("Active", "guest.lab", "6.1.0-9-amd64")
    assert told["guestTimezone"] == {"zone": "CET", "offset": 60}
    assert told["guestOsInfo"]["distribution"] == "Debian GNU/Linux"
    assert told["disksUsage"] == [{"path": "/", "fs": "ext4", "total": "1000", "used": "10"}]
    assert told["diskMapping"] == {"s1": {"name": "/dev/sda"}}
    assert told["appsList"] == ["kernel-6.1.0-9-amd64"]


def test_a_windows_guest_is_told_by_its_pretty_name() -> None:
    told = telling({"os.id": "mswindows", "os.pretty-name": "Windows Server 2022", "os.machine": "x86_64"})
    as_stats(told)
    assert (told["guestOs"], told["guestOsInfo"]["type"]) == ("Windows Server 2022", "windows")
    assert "appsList" not in told


def test_addresses_are_listed_without_loopback() -> None:
    told = network(
        {
            "lo": {"hwaddr": "00:00:00:00:00:00", "addrs": [{"addr": "127.0.0.1", "type": 0}]},
            "eth0": {
                "hwaddr": "52:54:00:00:00:01",
                "addrs": [{"addr": "10.0.0.2", "type": 0}, {"addr": "fe80::1", "type": 1}],
            },
            "eth1": {"hwaddr": "52:54:00:00:00:02", "addrs": None},
        }
    )
    as_stats(told)
    assert told["guestIPs"] == "10.0.0.2"
    assert [one["name"] for one in told["netIfaces"]] == ["eth0", "eth1"]
    assert told["netIfaces"][1]["inet"] == []


def test_a_guest_that_tells_nonsense_is_cut_short() -> None:
    flood = {
        "user.count": 1_000_000,
        "user.0.name": "x" * 100_000,
        "hostname": ["no"],
        "timezone.name": 3,
        "fs.count": -1,
    }
    told = telling(flood)
    as_stats(told)
    assert len(told["username"]) < 100_000
    assert "guestName" not in told
    assert told["disksUsage"] == []


def test_silence_tells_nothing_and_keeps_what_was_told() -> None:
    assert telling({}) == {}
    assert network(None) == {}
    assert merged({"guestName": "a", "guestOs": "b"}, {"guestOs": "c"}) == {"guestName": "a", "guestOs": "c"}


def test_an_agent_is_asked_only_what_it_would_answer() -> None:
    commands = [
        {"name": "guest-get-users", "enabled": True},
        {"name": "guest-get-disks", "enabled": False},
        "nonsense",
    ]
    found = abilities(answer(json.dumps({"return": {"version": "7.2", "supported_commands": commands}})))
    assert (found.version, found.commands) == ("7.2", {"guest-get-users"})
    for text in (None, "{", "[]", '{"return": 3}', "[" * 100_000):
        assert abilities(answer(text)).commands == frozenset()


def test_processors_in_use_are_counted() -> None:
    told = processors([{"logical-id": 0, "online": True}, {"logical-id": 1, "online": False}])
    as_stats(told)
    assert told == {"guestCPUCount": 1}
    assert processors(None) == {}


def test_pci_devices_are_listed_once_in_either_form() -> None:
    ids = {"device-id": 4161, "vendor-id": 6900}
    old = {"address": {"type": "pci", "data": ids}, "driver-name": "net", "driver-date": "2024-03-01"}
    new = {"id": {"type": "pci", **ids}, "driver-name": "net", "driver-date": 1_709_251_200_000_000_000}
    told = pci_devices([old, new, {"id": "no"}, 3])
    as_stats(told)
    assert told["pci_devices"] == [
        {
            "device_id": 4161,
            "vendor_id": 6900,
            "driver_date": "2024-03-01",
            "driver_name": "net",
            "driver_version": "",
        }
    ]


def test_the_agent_is_one_of_the_programs() -> None:
    assert telling(LINUX, "7.2.0")["appsList"] == ["kernel-6.1.0-9-amd64", "qemu-guest-agent-7.2.0"]
