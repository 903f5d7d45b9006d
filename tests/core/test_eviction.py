"""Who leaves and how deep, as a pure function: the plans of few residents are the best ones, those of many are good."""

import random
from itertools import product
from math import prod

import pytest

from muxd.core.eviction import LOOKS, LevelCost, Resident, plan
from tests.seeds import seeds


def at_2(name: str, busy: bool, seconds: float) -> Resident:
    return Resident(name, busy, (LevelCost(2, seconds),))


def fits_with(bytes_of: dict[str, int] | dict[tuple[str, int], int], missing: int):
    """The claim lacks `missing` bytes; `bytes_of` has those that a worker frees, by its name or by name and level."""
    return lambda plan: (
        sum(bytes_of.get((name, level), bytes_of.get(name, 0)) for name, level in plan.items()) >= missing
    )


def test_one_that_is_enough_leaves_alone():
    residents = [at_2("a", False, 5.0), at_2("b", False, 6.0)]
    assert plan(residents, fits_with({"a": 40, "b": 30}, 20)) == {"a": 2}


def test_the_cheaper_of_two_leaves():
    residents = [at_2("a", False, 60.0), at_2("b", False, 6.0)]
    assert plan(residents, fits_with({"a": 40, "b": 30}, 20)) == {"b": 2}


def test_two_idle_ones_leave_before_one_that_is_busy():
    residents = [at_2("a", True, 1.0), at_2("b", False, 30.0), at_2("c", False, 30.0)]
    assert plan(residents, fits_with({"a": 40, "b": 20, "c": 20}, 40)) == {"b": 2, "c": 2}


def test_whoever_would_leave_for_nothing_stays_where_that_is_not_needed():
    residents = [at_2("a", False, 0.0), at_2("b", False, 0.0), at_2("c", False, 5.0)]
    assert plan(residents, fits_with({"a": 1, "b": 1, "c": 50}, 40)) == {"c": 2}


def test_nobody_leaves_where_it_fits_already():
    assert plan([at_2("a", False, 5.0)], lambda gone: True) == {}


def test_there_is_no_plan_where_all_would_not_be_enough():
    assert plan([at_2("a", False, 5.0)], fits_with({"a": 40}, 50)) is None


TWO_LEVELS = (LevelCost(0, 1.0), LevelCost(2, 5.0))


@pytest.mark.parametrize(("missing", "level"), [(10, 0), (11, 2)])
def test_one_sleeps_no_deeper_than_is_needed(missing, level):
    frees = {("a", 0): 10, ("a", 2): 40}
    assert plan([Resident("a", False, TWO_LEVELS)], fits_with(frees, missing)) == {"a": level}


def test_two_shallow_sleeps_are_cheaper_than_a_deep_one():
    residents = [Resident(name, False, TWO_LEVELS) for name in "ab"]
    frees = {(name, level): size for name in "ab" for level, size in ((0, 10), (2, 40))}
    assert plan(residents, fits_with(frees, 20)) == {"a": 0, "b": 0}
    assert plan(residents, fits_with(frees, 30)) == {"a": 2}


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_a_plan_of_few_is_the_cheapest_of_all(start):
    for seed in seeds(start, 100):
        _assert_cheapest(seed)


def _assert_cheapest(seed: int) -> None:
    chance = random.Random(seed)
    residents, frees = [], {}
    while len(residents) < 8 and prod(len(r.options) + 1 for r in residents) * 4 <= LOOKS:
        name, size, options = "abcdefgh"[len(residents)], 0, []
        for level in sorted(chance.sample([0, 1, 2, 3], chance.randint(1, 3))):
            options.append(LevelCost(level, chance.choice([1.0, 2.0, 5.0, 60.0])))
            frees[name, level] = size = size + chance.randint(1, 30)
        residents.append(Resident(name, chance.random() < 0.3, tuple(options)))
    fits = fits_with(frees, chance.randint(1, 80))

    def cost(levels: dict[str, int]) -> tuple[int, float]:
        there = [(r, next(o for o in r.options if o.level == levels[r.group])) for r in residents if r.group in levels]
        return sum(r.is_busy for r, _ in there), sum(option.seconds for _, option in there)

    choices = product(*([None, *(o.level for o in r.options)] for r in residents))
    plans = [
        {r.group: level for r, level in zip(residents, choice, strict=True) if level is not None} for choice in choices
    ]
    enough = [each for each in plans if fits(each)]
    chosen = plan(residents, fits)
    if chosen is None:
        assert not enough, f"seed {seed}"
    else:
        assert fits(chosen), f"seed {seed}"
        assert cost(dict(chosen)) == min(map(cost, enough)), f"seed {seed}"


@pytest.mark.parametrize("seed", seeds(0, 50))
def test_a_plan_of_many_is_enough_and_spares_whom_it_can(seed):
    chance = random.Random(seed)
    frees: dict[tuple[str, int], int] = {}
    residents = []
    for n in range(9 + chance.randint(0, 40)):
        frees[f"m{n}", 0] = chance.randint(1, 20)
        frees[f"m{n}", 2] = frees[f"m{n}", 0] + chance.randint(1, 20)
        cheap, dear = sorted((chance.uniform(1, 60), chance.uniform(1, 60)))
        residents.append(Resident(f"m{n}", chance.random() < 0.3, (LevelCost(0, cheap), LevelCost(2, dear))))
    fits = fits_with(frees, chance.randint(1, sum(size for (_, level), size in frees.items() if level == 2)))
    chosen = plan(residents, fits)
    assert chosen is not None
    assert fits(chosen)
    assert not any(fits({name: level for name, level in chosen.items() if name != spared}) for spared in chosen)
    assert not any(fits({**chosen, name: 0}) for name, level in chosen.items() if level == 2)
