# SPDX-License-Identifier: Apache-2.0
"""Host.getCapabilities: gathered in the background, served from memory, typed as engines read it.

Owns what is known of the machine, of libvirt (asked of virt) and of the network (asked of the network worker at each
call, because the engine looks right after it has changed it; a worker that died is waited for, and only for one that
hangs or goes on dying the last answer stands in).
Engines cast field by field: a number that must be a string, or a null, loses the whole answer.
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from vdsm_mp import VDSM_VERSION
from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.internal import GetHypervisorFacts, GetNetworkFacts, HypervisorFacts
from vdsm_mp.api.managed_volume import GetConnectorInfo
from vdsm_mp.api.ports import Caller
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config
from vdsm_mp.host import cpu, memory, numa, osinfo
from vdsm_mp.host.hardware import Hardware
from vdsm_mp.host.machine import Machine

logger = log.named(__name__)

CLUSTER_LEVELS = ("4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8")
ENGINES = ("4.2", "4.3", "4.4", "4.5")
#: Formats of storage domains that can be used here; 0 is read only in practice, 1 was never released.
DOMAIN_VERSIONS = (0, 2, 3, 4, 5)
BLOCK_SIZES: Mapping[str, tuple[int, ...]] = {
    "FCP": (512,),
    "GLUSTERFS": (0, 512, 4096),
    "ISCSI": (512,),
    "LOCALFS": (0, 512, 4096),
    "NFS": (0, 512, 4096),
    "POSIXFS": (0, 512, 4096),
}
_NETWORK_S = 2.0
#: So long a network worker that died may take to be back, the back-off after its third death included.
_NETWORK_BACK_S = 3.0
_TICK_S = 0.1
#: libvirt that starts with us looks at QEMU first.
_FIRST_S = 10.0


class Capabilities:
    """`gather` is slow (packages, sysfs), `learn` asks virt; both run in the background, `now` assembles."""

    def __init__(self, config: Config, call: Caller, hardware: Hardware, machine: Machine, hooks: Hooks) -> None:
        self._config = config
        self._call = call
        self._hardware = hardware
        self._machine = machine
        self._hooks = hooks
        self._gathering = threading.Lock()
        self._of_host: dict[str, Any] | None = None
        self._hypervisor: HypervisorFacts | None = None
        self._network: dict[str, Any] | None = None
        self._connector: dict[str, Any] | None = None
        self._flags: tuple[str, ...] = ()

    def gather(self) -> None:
        """Read the machine again."""
        read = self._read_host()
        self._of_host = read

    def learn(self) -> None:
        """Ask virt what libvirt can run, and storage for os-brick's view of this host.

        Raises: what the calls raise; what was known stays.
        """
        self._hypervisor = self._call.ask(GetHypervisorFacts())
        self._connector = self._call.ask(GetConnectorInfo())

    def now(self) -> dict[str, Any]:
        """The answer. Nothing but the network is read here, once the machine and libvirt are known.

        Raises: StillStarting. A host without machine types, CPU models or networks would be taken for one that can run
        nothing, and put aside; so before they are known for the first time there is no answer.
        """
        with self._gathering:
            if self._of_host is None:
                self.gather()
            known = self._hypervisor or self._learn_first()
        return {**(self._of_host or {}), **self._of_hypervisor(known), **self._of_network(), **self._of_connector()}

    def _learn_first(self) -> HypervisorFacts:
        try:
            found: HypervisorFacts = self._call.ask(GetHypervisorFacts(), deadline_s=_FIRST_S)
        except Error as error:
            logger.warning("it is not known yet what libvirt can run: %s", error)
            raise StillStarting from error
        self._hypervisor = found
        return found

    def _of_connector(self) -> dict[str, Any]:
        """Nothing without os-brick; an engine takes what is absent for a host that attaches no managed volumes."""
        if self._connector is None:
            try:
                self._connector = self._call.ask(GetConnectorInfo(), deadline_s=_FIRST_S)
            except Error as error:
                logger.warning("it is not known yet what os-brick tells of this host: %s", error)
        return {"connector_info": self._connector} if self._connector else {}

    def _of_network(self) -> dict[str, Any]:
        try:
            self._network = self._ask_network()
        except Error as error:
            if self._network is None:
                raise StillStarting from error
            logger.warning("the network worker does not answer, its last state is told: %s", error)
        return self._network

    def _ask_network(self) -> dict[str, Any]:
        """Of what was told last, an engine that has just set networks up would read that it had not."""
        until = clock.mono_s() + _NETWORK_BACK_S
        while True:
            try:
                found: dict[str, Any] = self._call.ask(GetNetworkFacts(), deadline_s=_NETWORK_S)
            except (PeerRestarted, StillStarting):
                if clock.mono_s() > until:
                    raise
            else:
                return found
            time.sleep(_TICK_S)

    def _of_hypervisor(self, known: HypervisorFacts) -> dict[str, Any]:
        flags = [*self._flags, *(f"model_{name}" for name in known.models)]
        if self._config.vars.fake_kvm_support:
            flags += [flag for flag in ("vmx", "sse2", "nx") if flag not in self._flags]
        found = {
            "cpuFlags": ",".join(flags),
            "emulatedMachines": list(known.machines),
            "tscScaling": known.tsc_scaling,
            "vncEncrypted": known.vnc_encrypted,
            "backupEnabled": known.backup,
        }
        if known.tsc_hz is not None:
            found["tscFrequency"] = str(known.tsc_hz)
        return found

    def _read_host(self) -> dict[str, Any]:
        machine = self._machine
        initiator = osinfo.iscsi_initiator(machine)
        return {
            **self._versions(),
            **self._processors(),
            **self._memory(),
            "HBAInventory": {
                "iSCSI": [{"InitiatorName": initiator}] if initiator else [],
                "FC": osinfo.fc_adapters(machine),
            },
            "ISCSIInitiatorName": initiator,
            "rngSources": _rng_sources(machine),
            "selinux": {"mode": osinfo.selinux_mode(machine)},
            "fipsEnabled": machine.text("/proc/sys/crypto/fips_enabled") == "1",
            "kdumpStatus": osinfo.kdump_status(machine),
            "kernelArgs": machine.text("/proc/cmdline"),
            "kernelFeatures": osinfo.kernel_features(machine),
            "hostdevPassthrough": "true" if machine.names("/sys/kernel/iommu_groups") else "false",
            "hostedEngineDeployed": False,
            "hooks": self._hooks.installed(),
            "openstack_binding_host_ids": {},
            "ovnConfigured": False,
            "netConfigDirty": "False",
            # An engine puts it on the kernel's command line when it turns FIPS on: better none than a wrong one.
            **({"boot_uuid": boot} if (boot := osinfo.boot_uuid(machine)) else {}),
            **_features(),
        }

    def _versions(self) -> dict[str, Any]:
        machine = self._machine
        uuid = osinfo.host_uuid(machine, self._config.vdsm_mp.vdsm_id_file, self._hardware.known())
        return {
            "packages2": osinfo.packages(machine),
            "operatingSystem": osinfo.operating_system(machine),
            "software_version": VDSM_VERSION,
            "software_revision": "1",
            "version_name": "Snow Man",
            "uuid": uuid,
            "clusterLevels": list(CLUSTER_LEVELS),
            "supportedENGINEs": list(ENGINES),
            "domain_versions": list(DOMAIN_VERSIONS),
            "supported_block_size": {name: list(sizes) for name, sizes in BLOCK_SIZES.items()},
            "vmTypes": ["kvm"],
            "additionalFeatures": [],
        }

    def _processors(self) -> dict[str, Any]:
        read = cpu.read(self._machine)
        self._flags = read.flags
        return {
            "kvmEnabled": str(cpu.kvm_enabled(self._machine, fake=self._config.vars.fake_kvm_support)).lower(),
            "nestedVirtualization": cpu.nested(self._machine),
            "cpuCores": str(len(read.threads) if self._config.vars.report_host_threads_as_cores else read.cores),
            "cpuThreads": str(len(read.threads)),
            "cpuSockets": str(read.sockets),
            "cpuModel": read.model,
            # A string with a fraction: absent, null or a JSON integer loses the whole answer.
            "cpuSpeed": f"{read.speed_mhz:.3f}",
            "onlineCpus": ",".join(str(thread.cpu_id) for thread in read.threads),
            "cpuTopology": [
                {
                    "cpu_id": thread.cpu_id,
                    "core_id": thread.core_id,
                    "die_id": thread.die_id,
                    "socket_id": thread.socket_id,
                    "numa_cell_id": thread.numa_cell_id,
                }
                for thread in read.threads
            ],
            "vdsmToCpusAffinity": sorted(os.sched_getaffinity(0)),
        }

    def _memory(self) -> dict[str, Any]:
        options = self._config.vars
        total_mib = memory.meminfo(self._machine).get("MemTotal", 0) // 1024
        if options.fake_kvm_support and options.fake_kvm_memory:
            total_mib = options.fake_kvm_memory
        nodes = numa.nodes(self._machine)
        return {
            "memSize": str(total_mib),
            "reservedMem": str(options.host_mem_reserve + options.extra_mem_reserve),
            "guestOverhead": str(options.guest_ram_overhead),
            "hugepages": memory.huge_page_sizes(self._machine),
            "numaNodes": {
                str(node.number): {
                    "cpus": list(node.cpus),
                    "totalMemory": str(node.total_kib // 1024),
                    "hugepages": {size: {"totalPages": str(pages[0])} for size, pages in node.huge_pages.items()},
                }
                for node in nodes
            },
            "numaNodeDistance": {str(node.number): list(node.distances) for node in nodes},
            "autoNumaBalancing": numa.balancing(self._machine),
        }


def _rng_sources(machine: Machine) -> list[str]:
    devices = {"random": "/dev/random", "urandom": "/dev/urandom", "hwrng": "/dev/hwrng"}
    return [name for name, path in devices.items() if machine.exists(path)]


def _features() -> dict[str, Any]:
    """Switches of engines: what this host's verbs can do."""
    return {
        "liveSnapshot": "true",
        "liveMerge": "true",
        "realtimeKernel": "PREEMPT_RT" in os.uname().version,
        "coldBackupEnabled": True,
        "clearBitmapsEnabled": True,
        "cd_change_pdiv": True,
        "deferred_preallocation": True,
        "refresh_disk_supported": True,
        "replicate_extend": True,
        "measure_subchain": True,
        "measure_active": True,
        "mailbox_events": True,
        "zerocopy_migrations": False,
        "qemu_image_info_bitmaps": True,
    }
