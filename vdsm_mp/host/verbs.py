# SPDX-License-Identifier: Apache-2.0
"""Host.* of the scheduler worker that need no room of their own: answers from what the host room knows."""

from collections.abc import Callable
from typing import Any

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.host import (
    Echo,
    GetCapabilities,
    GetHardwareInfo,
    GetHostStats,
    SetKsmTune,
    SetLogLevel,
    SetMomPolicyParameters,
)
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.common import log
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.host.caps import Capabilities
from vdsm_mp.host.hardware import Hardware
from vdsm_mp.host.loglevels import LogLevels
from vdsm_mp.host.policy import Policy
from vdsm_mp.host.stats import HostStats

logger = log.named(__name__)


@handles(GetCapabilities)
def get_capabilities(capabilities: Capabilities, hooks: Hooks, ask: GetCapabilities) -> dict[str, Any]:
    return _hooked(hooks, "caps", capabilities.now)


@handles(GetHardwareInfo)
def get_hardware_info(hardware: Hardware, ask: GetHardwareInfo) -> dict[str, str]:
    return hardware.known()


@handles(GetHostStats)
def get_stats(stats: HostStats, hooks: Hooks, ask: GetHostStats) -> dict[str, Any]:
    return _hooked(hooks, "stats", stats.now)


@handles(SetMomPolicyParameters)
def set_mom_policy_parameters(policy: Policy, ask: SetMomPolicyParameters) -> None:
    policy.set(ask.key_value_store)


@handles(SetKsmTune)
def set_ksm_tune(policy: Policy, ask: SetKsmTune) -> Status:
    policy.tune(ask.tuning_params)
    return DONE


@handles(Echo)
def echo(ask: Echo) -> str:
    logger.info("%s", ask.message)
    return ask.message


@handles(SetLogLevel)
def set_log_level(levels: LogLevels, ask: SetLogLevel) -> None:
    levels.set(ask.name or "", ask.level)


def _hooked(hooks: Hooks, what: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Hooks of before_get_... may refuse, those of after_get_... may change the answer."""
    try:
        hooks.json(f"before_get_{what}", {})
    except HookFailed as error:
        raise HostHookFailed(str(error)) from error
    answer = hooks.json(f"after_get_{what}", read(), raises=False)
    # Whatever a hook made of it, an engine needs an object.
    return answer if isinstance(answer, dict) else read()
