# SPDX-License-Identifier: Apache-2.0
"""Errors of libvirt, for tests in which something else stands in its place."""

import libvirt


def refusal(code: int, text: str = "no", *, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    # Else it tells what libvirt refused last in this thread.
    error.err = (code, domain, text, 0, "", "", "", 0, 0)
    return error
