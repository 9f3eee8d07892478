# SPDX-License-Identifier: Apache-2.0
"""Memory: meminfo, huge pages, transparent huge pages."""

from vdsm_mp.host.machine import Machine

_HUGE = "/sys/kernel/mm/hugepages"


def meminfo(machine: Machine) -> dict[str, int]:
    """{name: KiB} of /proc/meminfo (counts where the kernel gives no unit)."""
    found: dict[str, int] = {}
    for line in machine.text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0])
    return found


def huge_page_sizes(machine: Machine) -> list[int]:
    """KiB."""
    sizes = [name.removeprefix("hugepages-").removesuffix("kB") for name in machine.names(_HUGE)]
    return sorted(int(size) for size in sizes if size.isdigit())


def huge_pages(machine: Machine) -> dict[str, dict[str, int]]:
    """{"2048": {"nr_hugepages", "free_hugepages", ..., "vm.free_hugepages"}}, pages."""
    found: dict[str, dict[str, int]] = {}
    for size in huge_page_sizes(machine):
        folder = f"{_HUGE}/hugepages-{size}kB"
        pages = {name: machine.number(f"{folder}/{name}") for name in machine.names(folder) if name.endswith("pages")}
        found[str(size)] = pages | {"vm.free_hugepages": pages.get("free_hugepages", 0)}
    return found


def thp_state(machine: Machine) -> str:
    """`always`, `madvise` or `never`; the engine knows no other word."""
    text = machine.text("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = text.partition("[")[2].partition("]")[0]
    return chosen if chosen in ("always", "madvise") else "never"
