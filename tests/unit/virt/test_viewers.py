# SPDX-License-Identifier: Apache-2.0
"""Who looks at a console: counted by connections, told by addresses."""

from vdsm_mp.virt import viewers
from vdsm_mp.virt.records import VmRecord

A, B = ("192.0.2.1", "1001"), ("192.0.2.2", "1001")
NOBODY = VmRecord(vm_id="x", name="x")


def test_the_address_is_that_of_who_came_last_and_is_still_there() -> None:
    both = viewers.came(viewers.came(NOBODY, A), B)
    assert both.client_ip == B[0]
    one = viewers.went(both, B)
    assert one.client_ip == A[0]
    assert viewers.watched(one)
    assert not viewers.watched(viewers.went(one, A))


def test_who_was_refused_changes_nothing() -> None:
    one = viewers.came(NOBODY, A)
    assert viewers.went(one, (A[0], "1002")) == one
    assert viewers.went(NOBODY, A) == NOBODY


def test_connections_to_a_socket_look_the_same_and_are_counted() -> None:
    local = ("", "/run/console.vnc")
    two = viewers.came(viewers.came(NOBODY, local), local)
    one = viewers.went(two, local)
    assert viewers.watched(one)
    assert not viewers.watched(viewers.went(one, local))


def test_a_viewer_that_came_before_we_listened_is_known_by_its_address() -> None:
    before = VmRecord(vm_id="x", name="x", client_ip=A[0])
    assert viewers.went(before, B) == before
    assert not viewers.watched(viewers.went(before, A))


def test_connections_that_are_never_told_to_go_do_not_pile_up() -> None:
    record = NOBODY
    for port in range(1000):
        record = viewers.came(record, (A[0], str(port)))
    assert len(record.viewers) <= 64
