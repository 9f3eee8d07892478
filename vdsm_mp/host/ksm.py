# SPDX-License-Identifier: Apache-2.0
"""Kernel same-page merging: what it does now. Changing it is root's (`ksm-tune`)."""

import os

import msgspec

from vdsm_mp.host.machine import Machine

_KSM = "/sys/kernel/mm/ksm"


class Ksm(msgspec.Struct, frozen=True):
    """pages_to_scan: per wake-up. sharing_mib: memory that merging saves now."""

    running: bool
    merge_across_nodes: bool
    pages_to_scan: int
    sleep_ms: int
    sharing_mib: int


def read(machine: Machine) -> Ksm:
    page = os.sysconf("SC_PAGESIZE")
    return Ksm(
        running=machine.text(f"{_KSM}/run") == "1",
        merge_across_nodes=machine.text(f"{_KSM}/merge_across_nodes") != "0",
        pages_to_scan=machine.number(f"{_KSM}/pages_to_scan"),
        sleep_ms=machine.number(f"{_KSM}/sleep_millisecs"),
        sharing_mib=machine.number(f"{_KSM}/pages_sharing") * page >> 20,
    )
