# SPDX-License-Identifier: Apache-2.0
"""Which hypervisors a client may have us talk to. No I/O.

libvirt's library does much for a URI: it runs a command (`+ext`, `command=`), opens files (`pkipath=`, `keyfile=`,
`test:///path`), and talks to daemons of this very host. So only what an engine needs passes, and each part of it
has its own alphabet.
"""

import re
from urllib.parse import parse_qsl, urlsplit

import msgspec

from vdsm_mp.api.errors_virt import ForeignHypervisorFailed

_LENGTH = 1024
_REMOTE = ("ssh", "libssh", "libssh2", "tls", "tcp")
_VMWARE = frozenset({"vpx", "esx"})
_QEMU = frozenset(f"qemu+{transport}" for transport in _REMOTE)
_SCHEMES = _VMWARE | _QEMU | {"xen+ssh"}
#: The first character keeps it from being an option of ssh.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,253}|\[[0-9A-Fa-f:.]{2,45}(%25[A-Za-z0-9.-]{1,20})?\]")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\\@%-]{0,127}")
_PORT = re.compile(r"[0-9]{1,5}")
#: Names of data centers, clusters and hosts, blanks and the like in %xx.
_PATH = re.compile(r"[A-Za-z0-9_.+()/,:=@~%-]*")
_PARAMETERS = {
    "no_verify": re.compile("[01]"),
    "no_tty": re.compile("[01]"),
    "auto_answer": re.compile("[01]"),
    "transport": re.compile("https?"),
    "vcenter": re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9.-]{0,253}"),
    "known_hosts_verify": re.compile("normal|auto|ignore"),
}


class Hypervisor(msgspec.Struct, frozen=True):
    """A URI that passed. copies: its disks are taken as they are, virt-v2v is for other makes."""

    uri: str
    copies: bool


def judge(untrusted_uri: str) -> Hypervisor:
    """Raises: ForeignHypervisorFailed."""
    if len(untrusted_uri) > _LENGTH or not untrusted_uri.isascii() or not untrusted_uri.isprintable():
        raise ForeignHypervisorFailed("its URI is no plain, short text")
    try:
        parts = urlsplit(untrusted_uri)
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ForeignHypervisorFailed(f"its URI cannot be read: {error}") from error
    # As it is written: urlsplit makes it lower case.
    scheme = untrusted_uri.partition(":")[0]
    if scheme not in _SCHEMES:
        raise ForeignHypervisorFailed(f"its URI begins with none of {', '.join(sorted(_SCHEMES))}")
    user, _, address = parts.netloc.rpartition("@")
    if user and not _USER.fullmatch(user):
        raise ForeignHypervisorFailed("the user in its URI is none")
    host, port = _split(address)
    if not _HOST.fullmatch(host) or (port and not _PORT.fullmatch(port)):
        raise ForeignHypervisorFailed("its URI names no host")
    if not _PATH.fullmatch(parts.path) or "#" in untrusted_uri:
        raise ForeignHypervisorFailed("the path in its URI is none")
    if scheme in _QEMU and parts.path not in ("/system", "/session"):
        raise ForeignHypervisorFailed("the path in its URI is neither /system nor /session")
    for name, value in parameters:
        allowed = _PARAMETERS.get(name)
        if allowed is None or not allowed.fullmatch(value):
            raise ForeignHypervisorFailed(f"the parameter {name} in its URI is not allowed")
    return Hypervisor(untrusted_uri, copies=scheme in _QEMU)


def _split(address: str) -> tuple[str, str]:
    """("host", "port" or "")."""
    if address.startswith("["):
        host, bracket, port = address.partition("]")
        return host + bracket, port.removeprefix(":")
    host, _, port = address.partition(":")
    return host, port
