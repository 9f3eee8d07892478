# SPDX-License-Identifier: Apache-2.0
"""The house beside libvirt-python that does the same, in one run: create, destroy, sample, and how late events are.

Bare calls go to the same libvirtd from this process, with the XML that the house gave it. Sampling is compared inside
one process, as CPU time of all its threads; the room that samples is the house's, without the house.
"""

import re
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import libvirt

from bench.guests import Guests, percentile
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.virt_room import VirtRoom
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.sampling import FLAGS, WHAT, Sampler
from vdsm_mp.wire.client import Client

_LIVES = 6
_SAMPLES = 8
_EVENTS = 150

Found = dict[str, float]


def measure(house: RunningHouse, guests: Guests, ids: list[str]) -> Found:
    """{what: figure}; the unit is in the name. The VMs run all the time."""
    found = _lives(house, guests, ids[0])
    with TemporaryDirectory() as folder, VirtRoom(guests.libvirtd.uri, Path(folder)) as room:
        return found | _sampling(room, len(ids)) | _latency(house, room, ids[0])


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


# Create and destroy


def _lives(house: RunningHouse, guests: Guests, like: str) -> Found:
    """One after the other, ours and bare in turn."""
    conn = libvirt.open(guests.libvirtd.uri)
    secure = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    template = conn.lookupByUUIDString(like).XMLDesc(secure)
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    with house.client() as client:
        client.subscribe()
        for _ in range(_LIVES):
            ours.append(_our_life(client, guests))
            bare.append(_bare_life(conn, guests, template))
    conn.close()
    create, destroy = (statistics.median(times) for times in zip(*ours, strict=True))
    bare_create, bare_destroy = (statistics.median(times) for times in zip(*bare, strict=True))
    return {
        "VM.create -> event that it runs, ms": create,
        "createXML, bare, ms": bare_create,
        "VM.destroy, ms": destroy,
        "destroy, bare, ms": bare_destroy,
        "VM.create until it runs / bare createXML": create / bare_create,
        "VM.destroy / bare destroy": destroy / bare_destroy,
    }


def _our_life(client: Client, guests: Guests) -> tuple[float, float]:
    vm_id = str(uuid.uuid4())
    text = guests.xml(vm_id)
    began = time.perf_counter()
    client.call("VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": text}})
    for event in client.events(timeout_s=60):
        if event.params.get(vm_id, {}).get("status") in ("Powering up", "Down"):
            break
    created = (time.perf_counter() - began) * 1000
    return created, _ms(lambda: client.call("VM.destroy", {"vmID": vm_id}))


def _bare_life(conn: Any, guests: Guests, template: str) -> tuple[float, float]:
    vm_id = str(uuid.uuid4())
    guests.xml(vm_id)
    old = re.search(r"<uuid>(.*?)</uuid>", template)
    assert old is not None
    text = template.replace(old[1], vm_id).replace(f"vm-{old[1][:8]}", f"vm-{vm_id[:8]}")
    made: list[Any] = []
    created = _ms(lambda: made.append(conn.createXML(text)))
    return created, _ms(lambda: made[0].destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL))


# Sampling


def _sampling(room: VirtRoom, count: int) -> Found:
    """A beat of ours and a bare bulk call in turn; what the beat adds is parsing and keeping."""
    sampler, conn = room.state(Sampler), room.state(Connection).get()

    def beat() -> None:
        sampler.beat()
        for thread in threading.enumerate():
            if thread.name == "sample":
                thread.join(30)

    eventually(lambda: not sampler.hanging and len(room.call("Host.getVMList")) == count, within_s=30)
    took: dict[str, list[float]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(_SAMPLES):
        for who, work in (("ours", beat), ("bare", lambda: conn.getAllDomainStats(WHAT, FLAGS))):
            before = time.process_time()
            took[who].append(_ms(work))
            cpu[who].append((time.process_time() - before) * 1000)
    ours, bare = (statistics.median(cpu[who]) for who in ("ours", "bare"))
    return {
        "one round of sampling, CPU, ms": ours,
        "getAllDomainStats, bare, CPU, ms": bare,
        "one round of sampling, ms": statistics.median(took["ours"]),
        "getAllDomainStats, bare, ms": statistics.median(took["bare"]),
        "sampling / bare getAllDomainStats, CPU": ours / bare,
    }


# Events


def _latency(house: RunningHouse, room: VirtRoom, vm_id: str) -> Found:
    """From libvirt's callback in one client of libvirtd to the frame at a client of the house."""
    conn = room.state(Connection).get()
    called: list[float] = []
    dom = conn.lookupByUUIDString(vm_id)
    # For this one domain: one connection takes only one callback for all.
    number = conn.domainEventRegisterAny(
        dom, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_: called.append(time.perf_counter()), None
    )
    late_ms: list[float] = []
    try:
        with house.client() as client:
            client.subscribe()
            for turn in range(_EVENTS):
                called.clear()
                (dom.resume if turn % 2 else dom.suspend)()
                for event in client.events(timeout_s=30):
                    if vm_id in event.params:
                        break
                arrived = time.perf_counter()
                eventually(lambda: called)
                late_ms.append((arrived - called[0]) * 1000)
    finally:
        conn.domainEventDeregisterAny(number)
    return {
        "libvirt's callback -> frame at a client, p50, ms": percentile(late_ms, 0.5),
        "libvirt's callback -> frame at a client, p99, ms": percentile(late_ms, 0.99),
    }
