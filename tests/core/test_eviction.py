"""Who leaves, as a pure function: the plans of few residents are the best ones, those of many are good."""

import random
from itertools import chain, combinations

import pytest

from muxd.core.eviction import FEW, Resident, plan


def fits_with(bytes_of: dict[str, int], missing: int):
    return lambda gone: sum(bytes_of[name] for name in gone) >= missing


def test_one_that_is_enough_leaves_alone():
    residents = [Resident("a", False, 5.0), Resident("b", False, 6.0)]
    assert plan(residents, fits_with({"a": 40, "b": 30}, 20)) == ("a",)


def test_the_cheaper_of_two_leaves():
    residents = [Resident("a", False, 60.0), Resident("b", False, 6.0)]
    assert plan(residents, fits_with({"a": 40, "b": 30}, 20)) == ("b",)


def test_two_idle_ones_leave_before_one_that_is_busy():
    residents = [Resident("a", True, 1.0), Resident("b", False, 30.0), Resident("c", False, 30.0)]
    assert plan(residents, fits_with({"a": 40, "b": 20, "c": 20}, 40)) == ("b", "c")


def test_whoever_would_leave_for_nothing_stays_where_that_is_not_needed():
    residents = [Resident("a", False, 0.0), Resident("b", False, 0.0), Resident("c", False, 5.0)]
    assert plan(residents, fits_with({"a": 1, "b": 1, "c": 50}, 40)) == ("c",)


def test_nobody_leaves_where_it_fits_already():
    assert plan([Resident("a", False, 5.0)], lambda gone: True) == ()


def test_there_is_no_plan_where_all_would_not_be_enough():
    assert plan([Resident("a", False, 5.0)], fits_with({"a": 40}, 50)) is None


@pytest.mark.parametrize("seed", range(200))
def test_a_plan_of_few_is_the_cheapest_of_all(seed):
    chance = random.Random(seed)
    names = "abcdefgh"[: chance.randint(1, FEW)]
    sizes = {name: chance.randint(1, 40) for name in names}
    residents = [Resident(name, chance.random() < 0.3, chance.choice([1.0, 2.0, 5.0, 60.0])) for name in names]
    missing = chance.randint(1, 60)
    chosen = plan(residents, fits_with(sizes, missing))
    subsets = chain.from_iterable(combinations(residents, n) for n in range(len(names) + 1))
    enough = [s for s in subsets if sum(sizes[r.group] for r in s) >= missing]
    if chosen is None:
        assert not enough
    else:
        cost = {r.group: r for r in residents}
        assert (sum(cost[n].is_busy for n in chosen), sum(cost[n].seconds for n in chosen)) == min(
            (sum(r.is_busy for r in s), sum(r.seconds for r in s)) for s in enough
        )


@pytest.mark.parametrize("seed", range(50))
def test_a_plan_of_many_is_enough_and_spares_whom_it_can(seed):
    chance = random.Random(seed)
    sizes = {f"m{n}": chance.randint(1, 40) for n in range(FEW + chance.randint(1, 40))}
    residents = [Resident(name, chance.random() < 0.3, chance.uniform(1, 60)) for name in sizes]
    fits = fits_with(sizes, chance.randint(1, sum(sizes.values())))
    chosen = plan(residents, fits)
    assert chosen is not None
    assert fits(frozenset(chosen))
    assert not any(fits(frozenset(chosen) - {name}) for name in chosen)
