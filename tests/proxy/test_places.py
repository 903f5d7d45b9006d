"""Who gets the last places for connections, and who gives one up."""

import pytest

from muxd.proxy.peers import peer_of
from muxd.proxy.sockets.connection_slots import ConnectionSlots


class Guest:
    def __init__(self, places: ConnectionSlots, peer: str, now: float = 0.0) -> None:
        self.peer = peer
        self.places = places
        self.here = True
        places.take(self, now)

    def make_room(self) -> None:
        self.here = False
        self.places.leave(self)


def filled(most: int, peer: str, count: int, *, busy: bool) -> tuple[ConnectionSlots, list[Guest]]:
    places = ConnectionSlots(most, 0.2)
    guests = [Guest(places, peer) for _ in range(count)]
    for guest in guests if busy else ():
        places.work(guest)
    return places, guests


def test_one_peer_does_not_get_the_last_tenth_and_others_do() -> None:
    places, _ = filled(100, "a", 90, busy=True)
    assert not places.make_room("a", 1.0)
    for _ in range(10):
        assert places.make_room("b", 1.0)
        places.work(Guest(places, "b"))
    assert not places.make_room("b", 1.0)


def test_nothing_is_limited_while_there_is_room() -> None:
    places, guests = filled(100, "a", 89, busy=False)
    assert places.make_room("a", 1.0)
    assert all(guest.here for guest in guests)


def test_a_peer_that_wants_more_than_its_share_gives_up_its_own() -> None:
    places, guests = filled(100, "a", 80, busy=False)
    others = [Guest(places, "b") for _ in range(10)]
    assert places.make_room("a", 1.0)
    assert [guest.here for guest in guests] == [False] + [True] * 79
    assert all(guest.here for guest in others)


def test_the_peer_that_has_most_makes_room_for_others() -> None:
    places = ConnectionSlots(100, 0.2)
    few = [Guest(places, "a") for _ in range(5)]
    many = [Guest(places, "b") for _ in range(95)]
    assert places.make_room("c", 1.0)
    assert all(guest.here for guest in few)
    assert [guest.here for guest in many] == [False] + [True] * 94


def test_what_has_just_come_and_what_is_served_makes_no_room() -> None:
    places, _ = filled(10, "a", 9, busy=True)
    fresh = Guest(places, "b", 0.9)
    assert not places.make_room("c", 1.0)
    assert fresh.here
    assert places.make_room("c", 1.2)
    assert not fresh.here


def test_who_begins_to_rest_again_is_the_youngest_and_who_goes_on_resting_stays_old() -> None:
    places, guests = filled(10, "a", 10, busy=False)
    places.work(guests[0])
    places.rest(guests[0], 0.5)
    places.rest(guests[1], 0.5)
    assert places.make_room("b", 1.0)
    assert [guest.here for guest in guests][:3] == [True, False, True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unix", "unix", True),
    ],
)
def test_of_ipv6_a_network_is_one_peer(one: str, other: str, same: bool) -> None:
    assert (peer_of(one) == peer_of(other)) is same
