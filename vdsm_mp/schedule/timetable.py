# SPDX-License-Identifier: Apache-2.0
"""What is asked of whom, how often. Pure data; `beat.py` keeps the time, the worker file says what each name does."""

import msgspec

from vdsm_mp.api.internal import CheckStorage, EndPausedVms, SampleVms, WatchNetwork
from vdsm_mp.api.verb import Message
from vdsm_mp.common.options import Config


class Beat(msgspec.Struct, frozen=True):
    """One row.

    ask: the message that is sent to its owner, None = done in this worker by `name`. period_s: from start to start.
    first_s: after the worker's start; rows of one period start at different times, so that they do not bunch.
    """

    name: str
    period_s: float
    ask: Message | None = None
    first_s: float = 0.0
    deadline_s: float = 15.0


def timetable(config: Config) -> tuple[Beat, ...]:
    """The rows for this configuration. Storage checks domains by timers of its own; the beat finds lost ones."""
    options, external_s = config.vars, float(config.sampling.external_vm_lookup_interval)
    data_s = float(min(config.sampling.tpm_data_update_interval, config.sampling.nvram_data_update_interval))
    rows = [
        Beat("check storage", 5.0, CheckStorage(), first_s=0.5, deadline_s=5),
        Beat("look for external VMs", external_s, SampleVms(kind="external"), first_s=3.0),
        Beat("learn the hypervisor", 300.0, first_s=0.2, deadline_s=30),
        Beat("read the host", 300.0, first_s=0.0, deadline_s=30),
        Beat("watch the network", 5.0, WatchNetwork(), first_s=4.0, deadline_s=5),
        Beat("end VMs that stood still for too long", 40.0, EndPausedVms(), first_s=20.0, deadline_s=5),
        Beat("merge memory", 15.0, first_s=12.0),
        Beat("balance memory", 15.0, first_s=13.0, deadline_s=60),
    ]
    if config.sampling.enable:
        rows += [
            Beat("sample the host", float(options.host_sample_stats_interval), first_s=1.0),
            Beat("sample VMs", float(options.vm_sample_interval), SampleVms(kind="bulk"), first_s=0.5),
            Beat("sample block jobs", 15.0, SampleVms(kind="jobs"), first_s=6.0),
            Beat("read TPM and NVRAM data", data_s, SampleVms(kind="external_data"), first_s=9.0),
        ]
    if config.guest_agent.enable_qga_poller:
        period = float(config.guest_agent.qga_polling_period)
        rows.append(Beat("poll guest agents", period, SampleVms(kind="agent"), first_s=2.0))
    return tuple(rows)
