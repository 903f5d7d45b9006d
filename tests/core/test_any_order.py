"""No order of events breaks what must hold, and whatever happened, every wait ends.

A random world answers the commands in random order and with random failures; the oracle
judges every step.  Then the failures stop, and everybody who waits must be served.
"""

import random

import pytest

from muxd.core.commands import Command, FinishShutdown, SetTimer
from muxd.core.events import Event, ShutdownAsked
from muxd.core.lineup import AT_ONCE
from muxd.core.spec import NO_DEFAULT
from tests.seeds import seeds, thorough

from .playbook import Playbook
from .random_world import World, read_ahead
from .slow_scheduler import SlowScheduler, wakes
from .worlds import DEFAULTS, WORLDS

#: The seeds that each world is tried with, fifty at a time: 500 of the first two, and 300 of each of the others, of
#: which the first hundred are those of the next test, see tests/seeds.  test_any_world has all of the worlds, too.
SEEDS = [(name, start) for name in WORLDS for start in range(100, 500 if name in ("whole", "sized") else 300, 50)]


@pytest.mark.parametrize(("name", "start"), SEEDS)
def test_no_order_of_events_breaks_what_must_hold_and_every_wait_ends(name, start):
    for seed in seeds(start, 50):
        world = World(seed, WORLDS[name])
        for _ in range(80):
            world.step()
        world.must_come_to_rest()


def test_a_held_group_may_have_fewer_replicas_for_lack_of_load():
    world = World(0, WORLDS["spread"])
    world.rng = random.Random(1427)  # holds w, which has two replicas, of which one will do
    world.pass_time(0.0)
    world.hold()
    assert world.book.oracle.held == {"w"}
    world.must_come_to_rest()
    assert [len(world.book.group("w").enlisted), len(world.book.group("w").spares)] == [1, 1]


@pytest.mark.parametrize("start", [0, *thorough(50)])
@pytest.mark.parametrize("name", WORLDS)
def test_what_is_not_decided_anew_would_have_been_decided_the_same_and_every_wait_ends(name, start):
    for seed in seeds(start, 50):
        world = World(seed, WORLDS[name])
        slow = SlowScheduler(
            map(read_ahead, WORLDS[name]), wait_target=5.0, default=DEFAULTS.get(WORLDS[name], NO_DEFAULT)
        )
        fast = world.book.scheduler.handle

        def both(event: Event, fast=fast, slow=slow, world=world, seed=seed) -> list[Command]:
            commands = fast(event)
            same, done = ([c for c in each if not isinstance(c, SetTimer)] for each in (slow.handle(event), commands))
            assert done == same, f"seed {seed}: {event}"
            assert wakes(world.book.scheduler) <= wakes(slow) + AT_ONCE, f"seed {seed}: {event}"
            return commands

        for event in world.seen:
            slow.handle(event)
        world.book.scheduler.handle = both
        for _ in range(80):
            world.step()
        world.must_come_to_rest()


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_shutdown_ends_from_anywhere(start):
    for seed in seeds(start, 100):
        world = World(seed)
        for _ in range(world.rng.randint(0, 60)):
            world.step()
        world.must_shut_down()


def test_a_finished_shutdown_is_said_once():
    book = Playbook("a") >> ShutdownAsked(1, 31) << FinishShutdown()
    assert book >> ShutdownAsked(2, 3)
