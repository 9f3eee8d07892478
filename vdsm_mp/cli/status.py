# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp status`: one screen about this host. Processes from the master, the rest from the public door.

Exit code: 0 well · 1 degraded (something restarts, is not ready, does not answer, or a certificate ends soon) ·
2 the agent is not running.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.cli import door, render
from vdsm_mp.common import config, controlsocket
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config
from vdsm_mp.wire.tls import Files, days_left

SAYS_NO = (config.ConfigError,)
#: Fewer days than this make the host degraded: an engine renews well before.
DAYS_WARN = 14.0
_DOOR_S = 5.0


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--json", action="store_true")


def run(asked: argparse.Namespace) -> int:
    loaded = config.load().config
    status = gather(loaded)
    print(render.as_json(status) if asked.json else screen(status))
    return int(status["exit_code"])


def gather(loaded: Config) -> dict[str, Any]:
    """{"house", "vms", "domains", "tasks", "certificate_days_left", "problems", "exit_code"}."""
    try:
        house = controlsocket.ask(loaded.vdsm_mp.run_dir, "status")
    except (controlsocket.NotRunning, controlsocket.Refused, OSError) as error:
        return {"house": None, "problems": [str(error)], "exit_code": 2}
    problems = [] if house["verdict"] == "ok" else [f"the house is {house['verdict']}"]
    days = _days_left(loaded, problems)
    answers = _ask_door(loaded, problems)
    return {
        "house": house,
        "vms": answers.get("Host.getAllVmStats", []),
        "domains": answers.get("Host.getStats", {}).get("storageDomains", {}),
        "tasks": answers.get("Host.getAllTasksStatuses", {}),
        "certificate_days_left": days,
        "problems": problems,
        "exit_code": 1 if problems else 0,
    }


def _days_left(loaded: Config, problems: list[str]) -> float | None:
    if not loaded.vars.ssl:
        return None
    days = days_left(Path(Files.below(loaded.vdsm_mp.pki_dir).cert))
    if days is None:
        problems.append("the certificate cannot be read")
    elif days < DAYS_WARN:
        problems.append(f"the certificate ends in {days:.0f} days")
    return None if days is None else round(days, 1)


def _ask_door(loaded: Config, problems: list[str]) -> dict[str, Any]:
    """{verb: answer} of what answers; what does not is a problem with its reason."""
    answers: dict[str, Any] = {}
    here = argparse.Namespace(host="localhost", port=None, pki=None, plain=False, timeout=_DOOR_S)
    try:
        with door.connect(here) as client:
            for verb in ("Host.getAllVmStats", "Host.getStats", "Host.getAllTasksStatuses"):
                try:
                    answers[verb] = client.call(verb, timeout_s=_DOOR_S)
                except Error as error:
                    # 654: not the SPM, so there are no tasks to tell of.
                    if error.code != 654:
                        problems.append(f"{verb}: {error}")
    except Error as error:
        problems.append(f"the door does not answer: {error}")
    except OSError as error:
        problems.append(f"the door cannot be asked: {error}")
    problems += [f"domain {name} is not valid" for name, d in _bad_domains(answers).items() if d]
    return answers


def _bad_domains(answers: Mapping[str, Any]) -> dict[str, bool]:
    found = answers.get("Host.getStats", {}).get("storageDomains", {})
    return {name: report.get("actual", True) and not report.get("valid", True) for name, report in found.items()}


def screen(status: Mapping[str, Any]) -> str:
    """The same for people."""
    house = status["house"]
    if house is None:
        return f"not running: {status['problems'][0]}"
    parts = [
        f"vdsm-mp {house['version']}, pid {house['pid']}, {house['state']} for {render.seconds(house['uptime_s'])}: "
        + ("well" if not status["problems"] else "; ".join(status["problems"])),
        _workers(house),
    ]
    if house["children"]:
        parts.append(_children(house["children"]))
    if house["lost"]:
        parts.append("written off: " + ", ".join(f"{x['kind']} {x['name']} ({x['pid']})" for x in house["lost"]))
    parts += [_vms(status["vms"]), _domains(status["domains"]), _tasks(status["tasks"])]
    days = status["certificate_days_left"]
    parts.append("TLS is off" if days is None else f"certificate: {days:.0f} days left")
    return "\n\n".join(part for part in parts if part)


def _workers(house: Mapping[str, Any]) -> str:
    head = ("worker", "pid", "state", "up", "restarts", "last death", "RSS MiB", "PSS MiB", "heard of")
    rows: list[tuple[object, ...]] = [
        ("master", house["pid"], house["state"], render.seconds(house["uptime_s"]), "", "",
         render.mib(house["rss_kib"]), render.mib(house["pss_kib"]), ""),
    ]  # fmt: skip
    for name, worker in house["workers"].items():
        rows.append(
            (name, worker["pid"], worker["state"], render.seconds(worker["uptime_s"]), worker["restarts"],
             worker["last_death"], render.mib(worker["rss_kib"]), render.mib(worker["pss_kib"]),
             f"{render.seconds(worker['last_heartbeat_ago_s'])} ago")
        )  # fmt: skip
    return render.table(head, rows)


def _children(children: list[dict[str, Any]]) -> str:
    rows = [(c.get("kind"), c.get("name"), c.get("pid"), c.get("state", "")) for c in children]
    return render.table(("child", "for", "pid", "state"), rows)


def _vms(vms: list[dict[str, Any]]) -> str:
    rows = [
        (
            vm["vmId"],
            vm.get("vmName"),
            vm["status"],
            render.seconds(float(vm["elapsedTime"])) if "elapsedTime" in vm else "",
        )
        for vm in vms
    ]
    return render.table(("VM", "name", "status", "up"), rows) or "no VMs"


def _domains(domains: Mapping[str, dict[str, Any]]) -> str:
    rows = [
        (name, "unchecked" if not d.get("actual", True) else "valid" if d.get("valid") else f"error {d.get('code')}",
         f"{d.get('delay')} s", f"{d.get('lastCheck')} s ago")
        for name, d in domains.items()
    ]  # fmt: skip
    return render.table(("storage domain", "state", "delay", "checked"), rows) or "no storage domains"


def _tasks(tasks: Mapping[str, dict[str, Any]]) -> str:
    rows = [(name, t["taskState"], t["taskResult"], t["message"]) for name, t in tasks.items()]
    return render.table(("task", "state", "result", "message"), rows)
