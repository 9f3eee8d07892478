# SPDX-License-Identifier: Apache-2.0
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.ipc.trace import SHOWN_BYTES, masked


@pytest.mark.parametrize(
    "name",
    ["password", "ticket", "proxyPassword", "secretValue", "private_key", "CHAPpasswd", "headers", "data", "_X_data"],
)
@pytest.mark.parametrize("value", ["hunter2", 'hun"ter2', "hunter2\\", ["hunter2", "x"], {"a": "hunter2"}, 1234567])
def test_secrets_are_masked_by_name(name: str, value: object) -> None:
    text = masked(msgspec.json.encode({"user": "me", name: value, "size": 17}))
    assert "hunter2" not in text and "ter2" not in text and "1234567" not in text
    assert '"me"' in text and "17" in text


@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_password_in_a_document_is_masked_and_the_rest_shown(quote: str) -> None:
    xml = f"<graphics passwd={quote}hunter2{quote} passwdValidTo={quote}2026{quote}/>"
    text = masked(msgspec.json.encode({"xml": xml, "size": 17}))
    assert "hunter2" not in text and "2026" in text and "17" in text
    assert "hunter2" not in masked(b'{"xml":"<graphics passwd=\\u0022hunter2\\u0022/>"}')
    assert "hunter2" not in masked(b'{"xml":"<graphics passwd=\\"hunter2')


def test_a_cut_body_shows_no_half_secret() -> None:
    text = masked(b'{"a":"' + b"x" * (SHOWN_BYTES - 30) + b'","password":"hunter2hunter2hunter2hunter2"}')
    assert "hunter2" not in text


@given(st.binary(max_size=200))
def test_any_bytes_can_be_shown(body: bytes) -> None:
    assert isinstance(masked(body), str)
