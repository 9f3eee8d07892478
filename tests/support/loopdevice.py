# SPDX-License-Identifier: Apache-2.0
"""Files as block devices, for domains on file systems of their own."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import lacks

MIB = 1 << 20


@contextlib.contextmanager
def ext4_on_loop(image: Path, size: int, owner: str = "0:0") -> Iterator[str]:
    """A device with ext4 on it, over a new file of `size` bytes. owner: "UID:GID" of its root directory.

    Whoever mounts it unmounts it. Skips the test where the machine has no loop devices.
    """
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-E", f"root_owner={owner}", image], check=True)
    made = subprocess.run(["losetup", "--show", "-f", image], capture_output=True, text=True, check=False)
    if made.returncode:
        lacks("loop devices")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
