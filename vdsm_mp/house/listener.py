# SPDX-License-Identifier: Apache-2.0
"""The public socket. Bound by the master once, so that clients wait in the backlog while the door restarts."""

import errno
import socket

from vdsm_mp.common import log
from vdsm_mp.common.options import Config

logger = log.named("master")

#: An engine that reconnects to all hosts at once, and every tool of this host, fit in; so does the beginning of a
#: flood, which is taken in faster than a client tries again that found no place (after a second).
BACKLOG = 2048


def bind(config: Config) -> socket.socket:
    """A listening, non-blocking socket on the management address. Raises OSError, naming address and port.

    Without TLS only this host is let in, unless that is switched off as well.
    """
    address, port = config.addresses.management_ip, config.addresses.management_port
    if not config.vars.ssl and not config.vdsm_mp.force_plain_everywhere:
        logger.warning("TLS is off: only this host can connect")
        address = "::1" if address == "::1" else "127.0.0.1"
    try:
        return _bound(address, port)
    except OSError as error:
        without_ipv6 = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and address in ("::", "::1")
        if not without_ipv6:
            raise OSError(error.errno, f"cannot listen on {address} port {port}: {error.strerror}") from error
        return _bound("0.0.0.0" if address == "::" else "127.0.0.1", port)  # noqa: S104


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
