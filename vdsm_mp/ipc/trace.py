# SPDX-License-Identifier: Apache-2.0
"""One readable line per message of the bus, when somebody asks for it. A switch, not a log level.

    > storage #12 call internal.prepare_drive 59.9s left flow=1f3a {"pool_id":"…"}
    < storage #12 done {"path":"…"}

What looks like a secret is masked by the name of its member; long bodies are cut.
"""

import re
import time

from vdsm_mp.common import log
from vdsm_mp.ipc.envelope import Notice, Reply, Request

logger = log.named(__name__)

SHOWN_BYTES = 2000
_SECRET = re.compile(
    r'("(?:[^"]*(?:password|passwd|secret|ticket|token|credential|private|key|headers|_X_)[^"]*|data)"\s*:\s*)'
    r'(?:"(?:[^"\\]|\\.)*"?|\[[^\]]*\]?|\{[^}]*\}?|[^,}\]]+)',
    re.IGNORECASE,
)

# In domain XML within a string: passwd=\"…\" as JSON has it, or with apostrophes.
_ATTRIBUTE = re.compile(
    r"""(passw(?:or)?d\s*=\s*)(\\"|\\u0022|\\u0027|'|")(?:(?!\2).)*(?:\2)?""", re.IGNORECASE | re.DOTALL
)


def masked(body: bytes) -> str:
    """A body as text for people: secrets as ***, at most SHOWN_BYTES of it."""
    # Masked before it is cut, so that a cut cannot hide the closing quote of a secret.
    text = _SECRET.sub(r'\1"***"', body.decode("utf-8", "backslashreplace"))
    text = _ATTRIBUTE.sub(r"\1\2***\2", text)
    if len(text) > SHOWN_BYTES:
        return f"{text[:SHOWN_BYTES]}… {len(body)} bytes"
    return text


def request(arrow: str, other: str, header: Request, body: bytes) -> None:
    left_s = header.deadline - time.monotonic()
    line = "%s %s #%d %s %s %.1fs left flow=%s %s"
    logger.info(line, arrow, other, header.id, header.kind, header.verb, left_s, header.flow, masked(body))


def reply(arrow: str, other: str, header: Reply, body: bytes) -> None:
    logger.info("%s %s #%d %s %s", arrow, other, header.id, header.kind, masked(body))


def notice(arrow: str, topic: str, header: Notice, body: bytes) -> None:
    number = (header.sender, header.epoch, header.number)
    logger.info("%s %s %s %s.%d/%d %s", arrow, topic, header.kind, *number, masked(body))
