# SPDX-License-Identifier: Apache-2.0
"""Secrets for disks on the network, in real libvirt."""

import base64
import uuid
from typing import Any

import libvirt
import pytest

from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_virt import BadSecretRequest, SecretRegistrationFailed

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


def secret(usage: str, **more: str) -> dict[str, Any]:
    value = base64.b64encode(b"hush").decode()
    return {"uuid": str(uuid.uuid4()), "usageType": "ceph", "usageID": usage, "password": value, **more}


def test_secrets_come_change_and_go(room: VirtRoom, libvirtd: PrivateLibvirtd) -> None:
    first, second, foreign = secret("ovirt/1"), secret("ovirt/2"), secret("mine")
    assert room.call("Host.registerSecrets", secrets=[first, second, foreign]) is True
    with libvirt.open(libvirtd.uri) as conn:

        def there() -> set[str]:
            return {found.usageID() for found in conn.listAllSecrets()}

        assert there() == {"ovirt/1", "ovirt/2", "mine"}
        with pytest.raises(libvirt.libvirtError, match="private"):
            conn.secretLookupByUUIDString(first["uuid"]).value()
        changed = {**first, "usageID": "ovirt/3"}
        room.call("Host.registerSecrets", secrets=[changed], clear=True)
        assert there() == {"ovirt/3", "mine"}
        room.call("Host.registerSecrets", secrets=[changed])
        with pytest.raises(SecretRegistrationFailed):
            room.call("Host.registerSecrets", secrets=[secret("ovirt/3")])
        with pytest.raises(BadSecretRequest):
            room.call("Host.registerSecrets", secrets=[secret("ovirt/4"), secret("ovirt/5", usageType="x")])
        assert there() == {"ovirt/3", "mine"}
        for _ in range(2):
            room.call("Host.unregisterSecrets", uuids=[first["uuid"], foreign["uuid"]])
        assert there() == set()
