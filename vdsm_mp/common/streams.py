# SPDX-License-Identifier: Apache-2.0
"""Standard streams that whoever started us has closed: from now on they lead nowhere."""

import os
import sys


def fill() -> None:
    """Before anything is opened: a lock or a socket that took the place of standard error would be written to."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(fd, True)
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 (for life)
