# SPDX-License-Identifier: Apache-2.0
"""Secrets that libvirt needs for disks on the network. We hand them on and forget them; libvirt keeps them in memory.

Private and ephemeral: nobody reads them back, and they are gone when libvirt ends; the engine brings them again.
"""

import base64
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt
import msgspec

from vdsm_mp.api.errors_virt import BadSecretRequest, SecretRegistrationFailed, SecretUnregistrationFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_host import RegisterSecrets, UnregisterSecrets
from vdsm_mp.common import log, xml
from vdsm_mp.virt.connection import Connection, translated

logger = log.named(__name__)

#: usageType -> libvirt's name of the element with the usage's id.
_USAGES = {"ceph": "name", "volume": "volume", "iscsi": "target"}
_TYPES = {
    "ceph": libvirt.VIR_SECRET_USAGE_TYPE_CEPH,
    "volume": libvirt.VIR_SECRET_USAGE_TYPE_VOLUME,
    "iscsi": libvirt.VIR_SECRET_USAGE_TYPE_ISCSI,
}
#: How engines begin the usage id of theirs; others are not ours to clear.
_OURS = "ovirt/"


class Secret(msgspec.Struct, frozen=True):
    """A client's secret; the value does not show."""

    secret_id: str
    usage_type: str
    usage_id: str
    value: bytes
    description: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.secret_id}, {self.usage_type}, {self.usage_id})"

    @classmethod
    def of(cls, untrusted: Mapping[str, Any]) -> "Secret":
        """Raises: BadSecretRequest."""
        usage_type, usage_id = str(untrusted.get("usageType")), str(untrusted.get("usageID") or "")
        try:
            secret_id = str(uuid.UUID(str(untrusted.get("uuid"))))
        except ValueError:
            raise BadSecretRequest("uuid is not a UUID") from None
        if usage_type not in _USAGES:
            raise BadSecretRequest(f"usageType is none of {', '.join(_USAGES)}")
        if not usage_id or not usage_id.isprintable():
            raise BadSecretRequest("usageID is missing or no plain text")
        try:
            value = base64.b64decode(str(untrusted.get("password") or ""), validate=True)
        except ValueError:
            raise BadSecretRequest("password is not base64") from None
        if not value:
            raise BadSecretRequest("password is missing")
        description = str(untrusted.get("description") or "")
        if not description.isprintable():
            raise BadSecretRequest("description is no plain text")
        return cls(secret_id, usage_type, usage_id, value, description)

    def element(self) -> ET.Element:
        """What libvirt is to define; without the value."""
        secret = ET.Element("secret", ephemeral="yes", private="yes")
        if self.description:
            xml.add(secret, "description", self.description)
        xml.add(secret, "uuid", self.secret_id)
        usage = xml.add(secret, "usage", type=self.usage_type)
        xml.add(usage, _USAGES[self.usage_type], self.usage_id)
        return secret


@handles(RegisterSecrets)
def register_secrets(connection: Connection, ask: RegisterSecrets) -> None:
    secrets = [Secret.of(untrusted) for untrusted in ask.secrets]
    with translated("", SecretRegistrationFailed):
        conn = connection.get()
        for secret in secrets:
            _make_way(conn, secret)
            conn.secretDefineXML(xml.dump(secret.element())).setValue(secret.value)
        if ask.clear:
            wanted = {secret.secret_id for secret in secrets}
            for old in conn.listAllSecrets():
                if str(old.usageID()).startswith(_OURS) and old.UUIDString() not in wanted:
                    old.undefine()
    logger.info("%d secrets registered", len(secrets))


@handles(UnregisterSecrets)
def unregister_secrets(connection: Connection, ask: UnregisterSecrets) -> None:
    with translated("", SecretUnregistrationFailed):
        conn = connection.get()
        for secret_id in ask.uuids:
            old = _find(conn, secret_id)
            if old is not None:
                old.undefine()
    logger.info("%d secrets unregistered", len(ask.uuids))


def _make_way(conn: Any, secret: Secret) -> None:
    """libvirt does not change what a secret is for."""
    old = _find(conn, secret.secret_id)
    if old is not None and (old.usageType(), old.usageID()) != (_TYPES[secret.usage_type], secret.usage_id):
        old.undefine()


def _find(conn: Any, secret_id: str) -> Any:
    try:
        return conn.secretLookupByUUIDString(secret_id)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
            raise
        return None
