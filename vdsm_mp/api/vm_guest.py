# SPDX-License-Identifier: Apache-2.0
"""VM.* that go through a guest agent or work on templates."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_task import JobExists, TaskAborted
from vdsm_mp.api.errors_virt import RUNNING_ONLY, InvalidVmParameter, NoGuestAgent, SealFailed
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb

_SPEAKS = (*RUNNING_ONLY, NoGuestAgent, InvalidVmParameter)


@verb("VM.desktopLock", owner="virt", lane=Lane.KEYED, key="vm_id", tier=3, raises=_SPEAKS)
class LockDesktop(Message, frozen=True, kw_only=True):
    """Lock the session of the guest's user. By the old oVirt agent, like all of VM.desktop…; 19 without one."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.desktopLogin", owner="virt", lane=Lane.KEYED, key="vm_id", tier=3, raises=_SPEAKS)
class LoginDesktop(Message, frozen=True, kw_only=True):
    """Log a user into the guest (single sign-on)."""

    vm_id: Uuid = field(name="vmID")
    domain: str
    username: str
    password: str


@verb("VM.desktopLogoff", owner="virt", lane=Lane.KEYED, key="vm_id", tier=3, raises=_SPEAKS)
class LogoffDesktop(Message, frozen=True, kw_only=True):
    """Log the guest's user off."""

    vm_id: Uuid = field(name="vmID")
    force: bool


@verb("VM.desktopSendHcCommand", owner="virt", lane=Lane.KEYED, key="vm_id", tier=3, raises=_SPEAKS)
class SendDesktopCommand(Message, frozen=True, kw_only=True):
    """Hand a vendor's message to the guest's agent."""

    vm_id: Uuid = field(name="vmID")
    message: str


@verb(
    "VM.seal",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(SealFailed, JobExists),
    later=(SealFailed, TaskAborted),
)
class SealVm(Message, frozen=True, kw_only=True):
    """Make the disks of a template anonymous, as a job; needs virt-sysprep on the host (100).

    images: `sd_id`, `img_id`, `vol_id` of each, all disks of the template. They may be ILLEGAL meanwhile. When the job
    fails they may be half sealed.
    """

    vm_id: Uuid = field(name="vmID")
    job_id: Uuid
    sp_id: Uuid
    images: list[dict[str, Any]]
