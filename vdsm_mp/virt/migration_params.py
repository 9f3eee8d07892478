# SPDX-License-Identifier: Apache-2.0
"""What an engine asks of a migration -> what libvirt is told. Pure: flags, parameters, the XML for the destination.

The note is what a migration leaves in the VM's metadata, so that our next life knows where it was going. It never
travels: at the destination it would be read as a migration from there.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import libvirt
import msgspec

from vdsm_mp.api.errors_virt import InvalidVmParameter, MissingVmParameter
from vdsm_mp.api.vm_migration import MigrationParams
from vdsm_mp.common import xml
from vdsm_mp.common.digits import whole
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import convergence, cpupool
from vdsm_mp.virt.convergence import Schedule
from vdsm_mp.virt.metadata import Metadata

#: Where the note stands in the metadata.
NOTE = "outgoing_migration"
_DEFAULT_PORT = 54321


class Note(msgspec.Struct, frozen=True):
    """A migration under way: all that is needed to go on watching it, and to clean up after it."""

    dst: str
    params: MigrationParams

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()


def read_note(text: object) -> Note | None:
    """None when there is none, or one that cannot be read: then nothing is known of a destination."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError:
        return Note("", MigrationParams())


def address(dst: str) -> tuple[str, int]:
    """(host, port) of "host:port", "[v6]:port" or a host alone. Raises: MissingVmParameter."""
    if dst.startswith("["):
        host, _, rest = dst[1:].partition("]")
        port = rest.removeprefix(":")
    elif dst.count(":") == 1:
        host, _, port = dst.partition(":")
    else:
        host, port = dst, ""
    number = whole(port, most=0xFFFF) if port else _DEFAULT_PORT
    if not host or not number:
        raise MissingVmParameter("dst")
    return host, number


def bracketed(host: str) -> str:
    """A host as URIs want it."""
    return f"[{host}]" if ":" in host else host


def schedule(params: MigrationParams, variables: Vars) -> Schedule:
    """The engine's, else the old rule. Raises: InvalidVmParameter."""
    if params.convergence_schedule is not None:
        return convergence.of(params.convergence_schedule)
    downtime_ms = params.downtime or variables.migration_downtime
    if downtime_ms < 0:
        raise InvalidVmParameter("downtime is not a number of milliseconds")
    return convergence.exponential(downtime_ms, variables.migration_downtime_steps)


def flags(params: MigrationParams, plan: Schedule) -> int:
    """Of virDomainMigrateToURI3: libvirtd talks to libvirtd, so that we may die meanwhile."""
    chosen = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
    wanted = (
        (params.tunneled, libvirt.VIR_MIGRATE_TUNNELLED),
        (params.abort_on_error, libvirt.VIR_MIGRATE_ABORT_ON_ERROR),
        (params.compressed, libvirt.VIR_MIGRATE_COMPRESSED),
        (params.auto_converge, libvirt.VIR_MIGRATE_AUTO_CONVERGE),
        (params.encrypted, libvirt.VIR_MIGRATE_TLS),
        (params.zerocopy, libvirt.VIR_MIGRATE_ZEROCOPY),
        (params.parallel is not None, libvirt.VIR_MIGRATE_PARALLEL),
        (plan.may_postcopy, libvirt.VIR_MIGRATE_POSTCOPY),
    )
    for asked, flag in wanted:
        if asked:
            chosen |= flag
    return int(chosen)


def parameters(params: MigrationParams, *, max_bandwidth: int, live: str, persistent: str) -> dict[str, Any]:
    """Typed parameters of virDomainMigrateToURI3. live, persistent: the VM's XML as libvirt wants it for migration."""
    host, _ = address(params.dst)
    found: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: _destination(live, params),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: _destination(persistent, params),
    }
    bandwidth = max_bandwidth if params.max_bandwidth is None else params.max_bandwidth
    if bandwidth > 0:
        found[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = bandwidth
    if not params.tunneled:
        found[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{bracketed(params.dstqemu or host)}"
    if params.parallel:
        found[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = params.parallel
    if params.encrypted:
        # The data may go to an address of another network, which the certificate does not name.
        found[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = host
    if params.console_address and "<graphics type='spice'" in live:
        found[libvirt.VIR_MIGRATE_PARAM_GRAPHICS_URI] = f"spice://{bracketed(params.console_address)}"
    return found


def _destination(text: str, params: MigrationParams) -> str:
    domain = xml.parse(text)
    without_note(domain)
    cpupool.without_ours(domain)
    _repin(domain, "cputune/vcpupin", "vcpu", "cpuset", params.cpusets or ())
    _repin(domain, "numatune/memnode", "cellid", "nodeset", params.numa_nodesets or ())
    return xml.dump(domain)


def without_note(domain: ET.Element) -> None:
    """Take the note out of a domain."""
    metadata = Metadata.of_domain(domain)
    if metadata is not None:
        metadata.with_values(**{NOTE: None}).put_into(domain)


def _repin(domain: ET.Element, path: str, number: str, value: str, wanted: Sequence[str]) -> None:
    for element in domain.iterfind(path):
        index = whole(element.get(number))
        if index is not None and index < len(wanted):
            element.set(value, wanted[index])
