# SPDX-License-Identifier: Apache-2.0
import pytest

from vdsm_mp.common.digits import MOST, whole


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(MOST), MOST)])
def test_ascii_digits_are_their_number(text: str, number: int) -> None:
    assert whole(text) == number


@pytest.mark.parametrize("text", [None, "", "-1", "+1", " 1", "1\n", "1.0", "²", "١٢", str(MOST + 1), "9" * 5000])
def test_all_other_text_is_none(text: str | None) -> None:
    assert whole(text) is None


def test_more_than_the_most_is_none() -> None:
    assert (whole("25", most=25), whole("26", most=25)) == (25, None)
