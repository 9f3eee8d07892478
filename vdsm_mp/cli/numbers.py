# SPDX-License-Identifier: Apache-2.0
"""Numbers of the command line, as `type` of an option: a word that is none is told as what it should have been."""

import argparse
import math


def seconds(word: str) -> float:
    """A time that can pass."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{word} is no time in seconds")
    return value


def port(word: str) -> int:
    value = int(word) if word.isascii() and word.isdigit() else 0
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{word} is no port")
    return value
