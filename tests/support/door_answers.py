# SPDX-License-Identifier: Apache-2.0
"""Answers of workers behind a door, good and bad."""

import asyncio

from tests.support.door import always
from vdsm_mp.api.errors import PeerRestarted

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"


async def fails_by_death(_params: bytes) -> bytes:
    raise PeerRestarted("virt", "VM.pause")


async def is_null(_params: bytes) -> bytes:
    return b"null"


async def breaks(_params: bytes) -> bytes:
    raise ZeroDivisionError


async def hangs(_params: bytes) -> bytes:
    await asyncio.sleep(3600)
    raise AssertionError


async def echoes(params: bytes) -> bytes:
    return params


ANSWERS = {
    "Host.getVMList": always([{"vmId": VM}]),
    "Host.getCapabilities": always({"big": "x" * 200_000}),
    "VM.pause": fails_by_death,
    "VM.cont": is_null,
    "VM.shutdown": breaks,
    "VM.destroy": hangs,
    "Host.getStats": echoes,
}
