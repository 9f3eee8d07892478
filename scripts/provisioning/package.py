# SPDX-License-Identifier: Apache-2.0
"""What the Debian package does beside unpacking its files: the steps of `scripts/provision` and `scripts/uninstall`.

Called by the maintainer scripts as root, with /usr/bin/python3; safe to repeat, as dpkg demands.

The agent is restarted once, when everything is configured, not stopped before: who runs goes on with the old program
while files are replaced, so that an upgrade costs a second, and not the time that apt takes for everything else.
"""

from pathlib import Path

from provisioning import accounts, dhcp, host, hostname, libvirt, pki, section, stop
from provisioning.foreign import Ledger
from provisioning.say import say

SUPERVISORCTL = Path("/usr/bin/supervisorctl")
SECTION = Path("/etc/vdsm/supervisor.conf")
PROGRAMS = ("vdsm", "vdsm-metrics")


def configure(old_version: str) -> None:
    """After unpacking. old_version: "" at the first installation. Raises Failure."""
    notes = accounts.ensure()
    hostname.ensure()
    host.directories()
    host.identity()
    libvirt.let_in(notes, Ledger())
    pki.ensure(pki.HOST)
    notes += section.mend(SECTION)
    for note in notes:
        say(f"note: {note}")
    _start(fresh=not old_version)


def remove() -> None:
    """Before the files go. Raises Failure while a process of the agent cannot be ended."""
    stop.ensure_stopped(_stop)
    if _ctl("stop", *PROGRAMS) is not None:
        _ctl("remove", *PROGRAMS)
    notes = [libvirt.forget_filter(), *libvirt.give_back(Ledger()), dhcp.forget_hook()]
    for note in filter(None, notes):
        say(f"note: {note}")


def _start(*, fresh: bool) -> None:
    """supervisord takes the section, and a program that is not stopped on purpose runs in its new version."""
    if _ctl("pid") is None:
        say("note: supervisord does not run here; the agent starts with it")
        return
    before = _states()
    _ctl("reread")
    _ctl("update", *PROGRAMS)
    for name in PROGRAMS:
        was, state = before.get(name), _states().get(name)
        # Those that a changed section has started anew, or for the first time, need no second start.
        if was is not None and was == state and state[0] in ("RUNNING", "STARTING", "BACKOFF"):
            say(f"restarting {name}: guests go on")
            _ctl("restart", name)
        elif state is not None and state[0] in ("EXITED", "FATAL") and name == "vdsm":
            say("starting the agent")
            _ctl("start", name)
    state = _states().get("vdsm")
    if state is None or state[0] not in ("RUNNING", "STARTING"):
        stopped = "is stopped, as it was" if not fresh and state == before.get("vdsm") else "does not run"
        say(f"note: the agent {stopped}: supervisorctl status vdsm, /var/log/vdsm-mp-supervisor.log")


def _stop() -> None:
    say(f"stopping {' and '.join(PROGRAMS)}: guests go on")
    _ctl("stop", *PROGRAMS)


def _states() -> dict[str, tuple[str, str]]:
    """{program: (state, what is told beside it: the pid of one that runs)}"""
    found = {}
    for line in (_ctl("status", *PROGRAMS) or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in PROGRAMS and words[1].isupper():
            found[words[0]] = (words[1], words[3] if words[2:3] == ["pid"] else "")
    return found


def _ctl(*words: str) -> str | None:
    """None: no supervisord answers. Waits no longer than the agent may take to leave and to start."""
    done = stop.supervisorctl(SUPERVISORCTL, *words)
    if done is None or "refused connection" in done.stdout or "no such file" in done.stdout:
        return None
    return done.stdout
