# SPDX-License-Identifier: Apache-2.0
"""Notes between the master and a worker that ends."""

import socket

import pytest

from vdsm_mp.ipc import control


def test_what_a_worker_said_is_read_though_it_ended_with_notes_unread() -> None:
    master, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with master:
        control.send(master, control.Peer(name="virt", epoch=1, up=True))
        control.send(worker, control.CannotStart(reason="no room"))
        worker.close()
        note = control.receive_in_master(master)
        assert isinstance(note, control.CannotStart) and note.reason == "no room"
        with pytest.raises(control.Gone):
            control.receive_in_master(master)
