# SPDX-License-Identifier: Apache-2.0
"""Host.* of foreign hypervisors and OVAs. What is foreign is only talked to by children (`v2v_child`, virt-v2v)."""

import shutil
from typing import Any

from vdsm_mp.api.errors_virt import BadConversion, BadOva, ForeignHypervisorFailed
from vdsm_mp.api.ports import Background
from vdsm_mp.api.v2v import (
    AbortV2vJob,
    ConvertExternalVm,
    ConvertExternalVmFromOva,
    DeleteV2vJob,
    GetConvertedVm,
    GetExternalVmFromOva,
    GetExternalVmNames,
    GetExternalVMs,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.virt import v2v_command, v2v_uri
from vdsm_mp.virt.v2v_jobs import Conversions
from vdsm_mp.virt.v2v_run import Account, Converter, volumes_of
from vdsm_mp.virt.v2v_talk import talk, turn

_LISTING_S = 160.0
#: Storage may start at the same time.
_SETTLED_S = 5.0
_LOOK_S = 50.0
_NAMES_AT_MOST = 10_000
_CREDENTIAL_LENGTH = 1024


def take_up(conversions: Conversions, converter: Converter, background: Background) -> None:
    """After a start: clean up after conversions that ended with an earlier life."""
    converter.sweep()
    cut_short = conversions.load()

    def give_back() -> None:
        for ids in cut_short:
            converter.drives.teardown(ids)

    if cut_short:
        background.later(_SETTLED_S, "give back what was converted to", give_back)


@handles(GetExternalVMs)
def get_external_vms(ask: GetExternalVMs) -> list[dict[str, Any]]:
    wanted = ask.vm_names or None
    if wanted is not None and len(wanted) > _NAMES_AT_MOST:
        raise ForeignHypervisorFailed(f"more than {_NAMES_AT_MOST} names are asked for")
    with turn():
        return list(talk(_ask("vms", ask) | {"names": wanted}, deadline_s=_LISTING_S))


@handles(GetExternalVmNames)
def get_external_vm_names(ask: GetExternalVmNames) -> list[str]:
    with turn():
        return list(talk(_ask("names", ask), deadline_s=_LISTING_S))


@handles(GetExternalVmFromOva)
def get_external_vm_from_ova(ask: GetExternalVmFromOva) -> dict[str, Any]:
    with turn():
        return dict(talk({"do": "describe", "path": _path(ask.ova_path)}, deadline_s=_LOOK_S))


@handles(ConvertExternalVmFromOva)
def convert_ova(conversions: Conversions, converter: Converter, ask: ConvertExternalVmFromOva) -> None:
    """Returns when the job is begun."""
    path, vm = _path(ask.ova_path), ask.vminfo
    v2v_command.check(vm)
    _require_program()
    conversions.start(
        ask.job_id,
        volumes_of(vm),
        lambda progress, at: converter.from_ova(path, ask.job_id, vm, progress, at),
    )


@handles(ConvertExternalVm)
def convert_external_vm(conversions: Conversions, converter: Converter, ask: ConvertExternalVm) -> None:
    """Returns when the job is begun."""
    hypervisor, vm, account = v2v_uri.judge(ask.uri), ask.vminfo, _account(ask)
    v2v_command.check(vm)
    if not hypervisor.copies:
        _require_program()
    conversions.start(
        ask.job_id,
        volumes_of(vm),
        lambda progress, at: (
            converter.copy(account, vm, progress, at)
            if hypervisor.copies
            else converter.from_hypervisor(account, ask.job_id, vm, progress, at)
        ),
    )


@handles(GetConvertedVm)
def get_converted_vm(conversions: Conversions, ask: GetConvertedVm) -> str:
    return conversions.ovf(ask.job_id)


@handles(AbortV2vJob)
def abort_v2v_job(conversions: Conversions, ask: AbortV2vJob) -> None:
    conversions.abort(ask.job_id)


@handles(DeleteV2vJob)
def delete_v2v_job(conversions: Conversions, ask: DeleteV2vJob) -> None:
    conversions.delete(ask.job_id)


def _ask(do: str, ask: GetExternalVMs | GetExternalVmNames) -> dict[str, Any]:
    v2v_uri.judge(ask.uri)
    account = _account(ask)
    return {"do": do, "uri": account.uri, "username": account.username, "password": account.password}


def _account(ask: GetExternalVMs | GetExternalVmNames | ConvertExternalVm) -> Account:
    """Raises: ForeignHypervisorFailed."""
    for text in (ask.username, ask.password):
        if len(text) > _CREDENTIAL_LENGTH or "\0" in text or "\n" in text:
            raise ForeignHypervisorFailed("the user or the password is no line of text")
    return Account(ask.uri, ask.username, ask.password)


def _path(untrusted: str) -> str:
    """Of an OVA. Raises: BadOva."""
    if not untrusted.startswith("/") or len(untrusted) > 4096 or not untrusted.isprintable():
        raise BadOva("its path is none")
    parts = [part for part in untrusted.split("/") if part not in ("", ".")]
    if ".." in parts or not parts or parts[0] in ("proc", "sys", "dev"):
        raise BadOva("its path is none of an OVA")
    return untrusted


def _require_program() -> None:
    if shutil.which(v2v_command.PROGRAM) is None:
        raise BadConversion(f"{v2v_command.PROGRAM} is not installed on this host")
