# SPDX-License-Identifier: Apache-2.0
"""What a mistyped word was probably meant to be. Loaded after a mistake only: `difflib` is no part of a master."""

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str], *, at_most: int = 3, alike: float = 0.6) -> list[str]:
    """Known words that are much like this one, the likest first; case does not matter."""
    by_lower = {one.lower(): one for one in known}
    return [by_lower[one] for one in difflib.get_close_matches(word.lower(), by_lower, n=at_most, cutoff=alike)]
