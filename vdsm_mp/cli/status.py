# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp status`: one screen about this host. Processes from the master, the rest from the public door.

Exit code: 0 well · 1 degraded (something restarts, is not ready, does not answer, or a certificate ends soon) ·
2 the agent is not running. Whatever makes it degraded is a sentence in `problems`: what the master sees of its workers,
what the workers say of themselves (`problems` in their vitals), and what the door's answers tell of VMs and domains.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vdsm_mp.cli import door, render
from vdsm_mp.cli.answers import checked
from vdsm_mp.common import config, controlanswers, controlsocket, program
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config
from vdsm_mp.host import health
from vdsm_mp.wire.tls import Files, days_left, untimely

SAYS_NO = ()
#: Fewer days than this make the host degraded: an engine renews well before.
DAYS_WARN = 14.0
UNREADABLE = "the certificate cannot be read"
_DOOR_S = 5.0


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--json", action="store_true", help="all that is known, as JSON")


def run(asked: argparse.Namespace) -> int:
    loaded, faults = config.load_usable()
    status = gather(loaded, faults)
    print(render.as_json(status) if asked.json else screen(status))
    return int(status["exit_code"])


def gather(loaded: Config, faults: Sequence[str] = ()) -> dict[str, Any]:
    """{"house", "vms", "domains", "tasks", "certificate_days_left", "problems", "exit_code"}.

    faults: of the files that `loaded` was read from; the agent that runs has read them earlier, or others.
    """
    try:
        house = controlanswers.status(loaded.vdsm_mp.run_dir)
    except controlsocket.NotRunning as error:
        return {"house": None, "problems": [f"not running: {error}", *faults], "exit_code": 2}
    except (controlsocket.Refused, OSError) as error:
        return {"house": None, "problems": [f"cannot be asked: {error}", *faults], "exit_code": 2}
    problems = [*house_problems(house), *restart_problems(house, loaded, faults)]
    days = _days_left(loaded, problems)
    answers = _ask_door(loaded, problems)
    return {
        "house": house,
        "vms": answers.get("Host.getAllVmStats", []),
        "domains": answers.get("Host.getStats", {}).get("storageDomains", {}),
        "tasks": answers.get("Host.getAllTasksStatuses", {}),
        "memory": _memory(answers.get("Host.getStats", {})),
        "certificate_days_left": days,
        "problems": problems,
        "exit_code": 1 if problems else 0,
    }


def house_problems(house: Mapping[str, Any]) -> list[str]:
    """What the master and the workers themselves find wrong; [] when all is well.

    house: the master's answer to `status`.
    """
    found = []
    for name, worker in house["workers"].items():
        died = worker["last_death"] and f"last death: {worker['last_death']}"
        if worker["state"] != "ready":
            again = f"next try in {render.seconds(worker['next_start_in_s'])}" if "next_start_in_s" in worker else ""
            found.append(f"{name} is {worker['state']}" + _in_brackets(again, died))
        elif worker["degraded"]:
            found.append(f"{name} died often lately, {worker['restarts']} times in all" + _in_brackets(died))
        found += [f"{name}: {problem}" for problem in worker["vitals"].get("problems", ())]
    found += [f"{x['kind']} {x['name']} ({x['pid']}) hangs in the kernel and is written off" for x in house["lost"]]
    if house.get("log", {}).get("stuck"):
        found.append("nobody writes the log: its file system hangs, or its writer does; lines are being lost")
    if missing := house.get("premises_problem"):
        found.append(f"{missing}; workers that end are not started again before that is mended")
    if house["state"] != "running":
        found.append(f"the agent is {house['state']}")
    if not found and house["verdict"] != "ok":
        found.append(f"the agent is {house['verdict']}")
    return found


def restart_problems(house: Mapping[str, Any], loaded: Config, faults: Sequence[str]) -> list[str]:
    """What another start would find different, or would fail at: a program or a configuration that changed since."""
    found = [f"the agent could not start again: {fault}" for fault in faults]
    if not house.keys() >= {"build", "program", "config", "abandoned"}:
        return [*found, "the agent that runs is older than this program; restart it to change over"]
    if house["abandoned"]:
        found.append("the supervisord that started the agent is gone: `vdsm-mp stop` lets the next one start it")
    read = house["config"]
    if not faults and read["file"] == str(config.main_file()) and read["digest"] != config.digest(loaded):
        found.append("the configuration has changed since the agent started; restart it to have it in force")
    if house["program"] == program.ROOT and house["build"] != program.build_id():
        found.append("another program is installed than the one that runs; restart the agent to change over")
    return found


def _in_brackets(*words: str | None) -> str:
    said = "; ".join(word for word in words if word)
    return f" ({said})" if said else ""


def _memory(stats: Mapping[str, Any]) -> dict[str, Any]:
    """{"free_mib", "ksm": bool, "ksm_pages", "load"}: what the memory policy works with, as far as it is known."""
    if not stats:
        return {}
    return {
        "free_mib": stats.get("memFree"),
        "ksm": stats.get("ksmState"),
        "ksm_pages": stats.get("ksmPages"),
        "load": stats.get("cpuLoad"),
    }


def _days_left(loaded: Config, problems: list[str]) -> float | None:
    if not loaded.vars.ssl:
        return None
    files = Files.below(loaded.vdsm_mp.pki_dir)
    problems += certificate_problems(files)
    days = days_left(files.cert)
    return None if days is None else round(days, 1)


def certificate_problems(files: Files) -> list[str]:
    """Certificates, of this host and of the CA, that nobody trusts now or will not in a few days."""
    found = []
    for what, path in (("the certificate", files.cert), ("the CA's certificate", files.ca)):
        days = days_left(path)
        if fault := untimely(path):
            found.append(f"{what} {fault}")
        elif days is not None and days < DAYS_WARN:
            found.append(f"{what} ends in {days:.0f} days")
    return found


def _ask_door(loaded: Config, problems: list[str]) -> dict[str, Any]:
    """{verb: answer} of what answers; what does not is a problem with its reason."""
    answers: dict[str, Any] = {}
    here = argparse.Namespace(host="localhost", port=None, pki=None, plain=False, timeout=_DOOR_S)
    try:
        with door.connect(here) as client:
            for verb in ("Host.getAllVmStats", "Host.getStats", "Host.getAllTasksStatuses"):
                try:
                    answers[verb] = checked(verb, client.call(verb, timeout_s=_DOOR_S))
                except Error as error:
                    # 654: not the SPM, so there are no tasks to tell of.
                    if error.code != 654:
                        problems.append(f"{verb}: {error}")
    except Error as error:
        problems.append(f"the door does not answer: {error}")
    except (OSError, door.NoCertificate) as error:
        problems.append(f"the door cannot be asked: {error}")
    vms = {
        vm["vmId"]: {"name": vm.get("vmName"), "status": vm["status"]} for vm in answers.get("Host.getAllVmStats", ())
    }
    domains = answers.get("Host.getStats", {}).get("storageDomains", {})
    problems += health.problems({}, vms, domains, {})
    return answers


def screen(status: Mapping[str, Any]) -> str:
    """The same for people."""
    house = status["house"]
    if house is None:
        return "\n".join([status["problems"][0], *(f"  ! {more}" for more in status["problems"][1:])])
    parts = [
        f"vdsm-mp {house['version']}, pid {house['pid']}, {house['state']} for {render.seconds(house['uptime_s'])}: "
        + (_many(len(status["problems"]), "problem") if status["problems"] else "well"),
        "\n".join(f"  ! {problem}" for problem in status["problems"]),
        _workers(house),
    ]
    if house["children"]:
        parts.append(_children(house["children"]))
    if house["lost"]:
        parts.append("written off: " + ", ".join(f"{x['kind']} {x['name']} ({x['pid']})" for x in house["lost"]))
    parts += [_vms(status["vms"]), _domains(status["domains"]), _tasks(status["tasks"])]
    days = status["certificate_days_left"]
    unread = UNREADABLE in status["problems"]
    left = "certificate: " + (f"{days:.0f} days left" if days and days > 0 else "its time is over")
    tls = left if days is not None else "" if unread else "TLS is off"
    parts.append("  ".join(part for part in (tls, _host(status["memory"])) if part))
    return "\n\n".join(part for part in parts if part)


def _many(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _host(memory: Mapping[str, Any]) -> str:
    if not memory:
        return ""
    ksm = f"KSM merges ({memory['ksm_pages']} pages a round)" if memory["ksm"] else "KSM is off"
    return f"memory: {memory['free_mib']} MiB free, {ksm}  load: {memory['load']}"


def _workers(house: Mapping[str, Any]) -> str:
    head = ("worker", "pid", "state", "up", "restarts", "last death", "RSS MiB", "PSS MiB", "heard of")
    rows: list[tuple[object, ...]] = [
        ("master", house["pid"], house["state"], render.seconds(house["uptime_s"]), "", "",
         render.mib(house["rss_kib"]), render.mib(house["pss_kib"]), ""),
    ]  # fmt: skip
    for name, worker in house["workers"].items():
        rows.append(
            (name, worker["pid"], worker["state"], render.seconds(worker["uptime_s"]), worker["restarts"],
             _death(worker), render.mib(worker["rss_kib"]), render.mib(worker["pss_kib"]),
             worker["pid"] and f"{render.seconds(worker['last_heartbeat_ago_s'])} ago")
        )  # fmt: skip
    return render.table(head, rows)


def _death(worker: Mapping[str, Any]) -> str | None:
    if not worker["last_death"]:
        return None
    return f"{worker['last_death']}, {render.seconds(worker.get('last_death_ago_s'))} ago"


def _children(children: list[dict[str, Any]]) -> str:
    rows = [(c.get("kind"), c.get("name"), c.get("pid")) for c in children]
    return render.table(("child", "for", "pid"), rows)


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
    rows = [(name, t["taskState"], t["taskResult"], t.get("message")) for name, t in tasks.items()]
    return render.table(("task", "state", "result", "message"), rows)
