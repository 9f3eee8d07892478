# SPDX-License-Identifier: Apache-2.0
"""Sockets on the bus that cannot be bound."""

from pathlib import Path

import pytest

from vdsm_mp.ipc.wires import Wires


def test_an_address_that_cannot_be_bound_is_named_by_the_systems_error_and_leaves_no_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wires = Wires(tmp_path)
    (tmp_path / "virt.1.call" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match=r"/virt\.1\.call'$"):
        wires.router(wires.path("virt", 1, "call"))
    wires.close()  # an open socket would keep it for ever
