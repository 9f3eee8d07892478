# SPDX-License-Identifier: Apache-2.0
"""supervisord's section of the agent where somebody has changed it, and so keeps an older one of ours.

All that was changed stays. But supervisord, which is root, opened its logs in the folder of user vdsm once, who could
put links there: the lines that named them were ours, and become what they are now.
"""

import re
from pathlib import Path

from provisioning.foreign import replace, text_of

_MOVED = {
    "/var/log/vdsm/supervisor-vdsm.log": "/var/log/vdsm-mp-supervisor.log",
    "/var/log/vdsm/supervisor-vdsm-metrics.log": "/var/log/vdsm-mp-metrics.log",
}
_LOG = re.compile(r"(?m)^([ \t]*std(?:out|err)_logfile[ \t]*=[ \t]*)(/var/log/vdsm/[^\s;]*)")


def mend(path: Path) -> list[str]:
    """Returns notes for the administrator. The file keeps its owner and mode; a link to it stays one."""
    if not path.exists():
        return []
    path = path.resolve()
    old = text_of(path)
    new = _LOG.sub(lambda found: found[1] + _MOVED.get(found[2], found[2]), old)
    notes = []
    if new != old:
        replace(path, new)
        notes.append(f"{path} had supervisord, as root, write its log in a folder of user vdsm: it is in /var/log now")
    notes += [
        f"{path} has supervisord, as root, write {found[2]!r} in a folder of user vdsm, who could put a link there: "
        "name a file in a folder of root's"
        for found in _LOG.finditer(new)
    ]
    return notes
