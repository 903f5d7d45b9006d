"""Places are dealt fairly, and never more are in use than the limit allows, whatever is on its way meanwhile."""

from collections import deque
from random import Random

import pytest

from muxd.core.places import NOTICED, ROUND, ModelPlaces, fair_shares
from tests.seeds import seeds


@pytest.mark.parametrize(
    ("limit", "wanted", "shares"),
    [
        (8, {1: 9, 2: 9}, {1: 4, 2: 4}),
        (8, {1: 1, 2: 9}, {1: 1, 2: 7}),
        (7, {1: 9, 2: 9, 3: 9}, {1: 3, 2: 2, 3: 2}),
        (9, {1: 2, 2: 3, 3: 9}, {1: 2, 2: 3, 3: 4}),
        (8, {1: 1, 2: 1}, {1: 4, 2: 4}),
        (8, {1: 0, 2: 0, 3: 0}, {1: 3, 2: 3, 3: 2}),
        (1, {1: 5, 2: 5}, {1: 1, 2: 0}),
        (4, {}, {}),
    ],
)
def test_each_has_as_many_as_any_other_as_far_as_it_wants_them(limit, wanted, shares):
    assert fair_shares(limit, wanted) == shares


def test_the_only_holder_has_all_of_them_and_is_never_told_again():
    places = ModelPlaces(4)
    places.join(1, wanted=9)
    places.grant(1)
    assert places.deal(0.0) == [1]
    assert places.told(1) == (4, 1)
    for wanted in (4, 0, 3):
        places.report(1, wanted, used=4, deal=1)
        assert places.deal(1.0) == []


def test_nothing_is_taken_while_there_is_enough():
    places = ModelPlaces(8)
    for lease in (1, 2):
        places.join(lease, wanted=1)
        places.grant(lease)
    places.deal(0.0)
    before = [places.told(lease) for lease in (1, 2)]
    places.report(1, wanted=4, used=4, deal=1)
    assert places.deal(0.1) == []
    assert [places.told(lease) for lease in (1, 2)] == before


def test_a_place_that_is_taken_is_given_on_once_it_is_not_in_use():
    places = ModelPlaces(2)
    places.join(1, wanted=2)
    places.grant(1)
    places.deal(0.0)
    places.join(2, wanted=2)
    places.grant(2)
    assert places.deal(0.1) == [1]
    assert (places.told(1), places.told(2)) == ((1, 2), (0, 0))
    places.report(1, wanted=2, used=1, deal=1)  # said before it heard of the deal
    assert places.deal(0.2) == []
    places.report(1, wanted=2, used=1, deal=2)
    assert places.deal(0.3) == [2]
    assert places.told(2) == (1, 1)


def test_fewer_places_than_holders_go_round():
    places = ModelPlaces(1)
    for lease in (1, 2, 3):
        places.join(lease, wanted=5)
        places.grant(lease)
    had, now = [], 0.0
    for _ in range(60):
        for lease in places.deal(now):
            told, deal = places.told(lease)
            places.report(lease, wanted=5, used=told, deal=deal)
            if told:
                had.append(lease)
        now += ROUND / 2
    assert len(had) > 12
    assert all(set(had[turn : turn + 3]) == {1, 2, 3} for turn in range(len(had) - 2))


class Proxy:
    """A holder that admits what it may, at the other end of two slow lines."""

    def __init__(self) -> None:
        self.waiting = 0
        self.in_flight = 0
        self.places, self.deal = 0, 0
        self.heard: deque[tuple[int | None, int]] = deque()
        self.said: deque[tuple[int, int, int]] = deque()

    def admit(self) -> None:
        while self.waiting and self.in_flight < self.places:
            self.waiting, self.in_flight = self.waiting - 1, self.in_flight + 1

    def report(self) -> None:
        self.said.append((self.in_flight + self.waiting, max(self.places, self.in_flight), self.deal))


@pytest.mark.parametrize("seed", seeds(0, 60))
def test_in_random_worlds_the_limit_is_kept_and_everybody_is_served(seed):
    random = Random(seed)
    limit, now, numbers = random.randint(1, 9), 0.0, iter(range(1000))
    places, proxies = ModelPlaces(limit), dict[int, Proxy]()
    at_worker: list[tuple[float, int]] = []  # of proxies that are gone, and until when

    def deal() -> None:
        for lease in places.deal(now):
            proxies[lease].heard.append(places.told(lease))

    def step(lease: int, proxy: Proxy) -> None:
        if proxy.said and random.random() < 0.5:
            places.report(lease, *proxy.said.popleft())
            deal()
        if proxy.heard and random.random() < 0.5:
            proxy.places, proxy.deal = proxy.heard.popleft()
            proxy.admit()
            proxy.report()
        if proxy.in_flight and random.random() < 0.3:
            proxy.in_flight -= 1
            proxy.admit()
            proxy.report()

    for turn in range(600):
        now += random.random() * 0.1
        if turn < 400 and len(proxies) < 6 and random.random() < 0.05:
            lease = next(numbers)
            proxies[lease] = Proxy()
            places.join(lease, wanted=0)
            places.grant(lease)
            deal()
        if turn < 400 and proxies and random.random() < 0.01:
            lease, proxy = random.choice([*proxies.items()])
            at_worker.append((now + NOTICED * random.random(), proxy.in_flight))
            del proxies[lease]
            places.leave(lease, lost_at=now)
            deal()
        for lease, proxy in proxies.items():
            if turn < 400 and random.random() < 0.2:
                proxy.waiting += random.randint(1, 3)
                proxy.admit()
                proxy.report()
            step(lease, proxy)
        deal()
        left = sum(count for until, count in at_worker if until > now)
        assert sum(proxy.in_flight for proxy in proxies.values()) + left <= limit
    for _ in range(4000):  # nothing comes any more
        now += ROUND / 4
        for lease, proxy in proxies.items():
            step(lease, proxy)
        deal()
        assert sum(proxy.in_flight for proxy in proxies.values()) <= limit
    assert [proxy.waiting for proxy in proxies.values()] == [0] * len(proxies)
