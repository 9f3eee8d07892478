# SPDX-License-Identifier: Apache-2.0
"""What is taken for a secret, and that its value does not show."""

import base64
import uuid
from typing import Any

import pytest

from vdsm_mp.api.errors_virt import BadSecretRequest
from vdsm_mp.common import xml
from vdsm_mp.virt.secrets import Secret

GOOD: dict[str, Any] = {
    "uuid": str(uuid.uuid4()),
    "usageType": "ceph",
    "usageID": "ovirt/a&b",
    "password": base64.b64encode(b"hush").decode(),
    "description": "disk <1>",
}


def test_a_secret_is_defined_without_its_value() -> None:
    secret = Secret.of(GOOD)
    assert secret.value == b"hush"
    assert "hush" not in repr(secret)
    assert xml.dump(secret.element()) == (
        '<secret ephemeral="yes" private="yes"><description>disk &lt;1&gt;</description>'
        f'<uuid>{GOOD["uuid"]}</uuid><usage type="ceph"><name>ovirt/a&amp;b</name></usage></secret>'
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"uuid": "x"}, {"usageType": "tls"}, {"usageType": None}, {"usageID": ""}, {"usageID": "a\x00b"},
        {"password": "hush!"}, {"password": None}, {"password": ["hush"]}, {"description": "\x1b"},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_secret_is_refused_and_not_repeated(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSecretRequest) as caught:
        Secret.of(GOOD | wrong)
    assert "hush" not in str(caught.value)
