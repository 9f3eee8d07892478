# SPDX-License-Identifier: Apache-2.0
"""Files as block devices: volumes that are managed elsewhere, domains on file systems of their own, frozen ones too."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import lacks

MIB = 1 << 20


@contextlib.contextmanager
def loop(image: Path) -> Iterator[str]:
    """A device over that file. Ends with the owner and the mode that it began with.

    Skips the test where the machine has no loop devices.
    """
    made = subprocess.run(["losetup", "--show", "-f", image], capture_output=True, text=True, check=False)
    if made.returncode:
        lacks("loop devices")
    device = made.stdout.strip()
    before = os.stat(device)
    try:
        yield device
    finally:
        os.chown(device, before.st_uid, before.st_gid)
        os.chmod(device, stat.S_IMODE(before.st_mode))
        subprocess.run(["losetup", "-d", device], check=True)


def empty(image: Path, size: int) -> Path:
    """A new file of `size` bytes."""
    with image.open("wb") as file:
        file.truncate(size)
    return image


@contextlib.contextmanager
def ext4_on_loop(image: Path, size: int, owner: str = "0:0") -> Iterator[str]:
    """A device with ext4 on it, over a new file of `size` bytes. owner: "UID:GID" of its root directory.

    Whoever mounts it unmounts it. Skips as `loop` does.
    """
    subprocess.run(["mkfs.ext4", "-q", "-E", f"root_owner={owner}", empty(image, size)], check=True)
    with loop(image) as device:
        yield device


@contextlib.contextmanager
def frozen(path: Path) -> Iterator[None]:
    """Whoever writes to the file system hangs in the kernel."""
    subprocess.run(["fsfreeze", "-f", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", path], check=True)
