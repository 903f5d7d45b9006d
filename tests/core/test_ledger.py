"""The ledger: what a worker has already is not missing when it takes it again; all else must be there."""

import pytest

from muxd.core.ledger import HOST_RAM, WHOLE, Holding, Ledger


def ledger(**capacity: int) -> Ledger:
    made = Ledger()
    made.capacity |= {"0": 80, "1": 80, HOST_RAM: 50} | capacity
    return made


def test_what_a_worker_has_already_it_takes_again_where_others_have_come_to_more_than_there_is():
    books = ledger()
    books.take("a", {"0": 50})
    books.take("b", {"0": 30})
    books.capacity["0"] = 60  # strangers have taken some
    books.take("a", {"0": 50})
    assert books.holders(["0"]) == ["a", "b"]
    assert books.total("0").size == 80


@pytest.mark.parametrize("claim", [{"0": 60}, {"0": WHOLE}, {"0": 50, "1": 90}, {"0": 50, HOST_RAM: 60}])
def test_what_it_does_not_have_must_be_there(claim):
    books = ledger()
    books.take("a", {"0": 50})
    books.take("b", {"0": 30})
    with pytest.raises(AssertionError, match="a lacks"):
        books.take("a", claim)
    assert books.total("0").size == 80


def test_a_sleeper_that_wakes_must_find_what_it_gave_up():
    books = ledger()
    books.take("a", {"0": 50, HOST_RAM: 20})
    books.keep("a", Holding({"0": 10, HOST_RAM: 20}, 1))
    books.take("b", {"0": 40})
    with pytest.raises(AssertionError, match="a lacks"):
        books.take("a", {"0": 50, HOST_RAM: 20})
    books.give_back("b")
    books.capacity[HOST_RAM] = 10  # its copy is there, whatever is left for others
    books.take("a", {"0": 50, HOST_RAM: 20})
    assert books.is_awake("a")


def test_who_has_nothing_yet_takes_what_fits_and_no_byte_more():
    books = ledger()
    books.take("b", {"0": 30})
    with pytest.raises(AssertionError, match=r"a lacks \{'0': 1\}"):
        books.take("a", {"0": 51})
    assert not books.holds("a", ["0"])
    books.take("a", {"0": 50})
    assert books.room("0") == 0
