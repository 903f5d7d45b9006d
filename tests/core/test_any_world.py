"""The random worlds of test_any_order, led by Hypothesis: a world that breaks something shrinks to a few steps.

What can happen, and what must hold, is World's; a step that is added there is taken up here.  Each step has a seed of
its own for what World leaves to chance, so that the steps that remain do the same when others are left out.  The
examples are the same in every run.
"""

import random
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.seeds import EVERY

from .random_world import World
from .worlds import WORLDS

SEEDS = st.integers(0, 1 << 16)


class AnyWorld(RuleBasedStateMachine):
    @initialize(seed=SEEDS, specs=st.sampled_from(list(WORLDS)), shuts_down=st.booleans())
    def begin(self, seed, specs, shuts_down):
        self.world = World(seed, WORLDS[specs])
        self.shuts_down = shuts_down

    def teardown(self):
        self.world.must_shut_down() if self.shuts_down else self.world.must_come_to_rest()


def a_rule(name: str) -> Callable[..., None]:
    def step(self, pause, seed):
        self.world.rng = random.Random(seed)
        self.world.pass_time(pause)
        getattr(self.world, name)()

    step.__name__ = name
    return rule(pause=st.sampled_from(World.PAUSES), seed=SEEDS)(step)


for place, name in enumerate(World.ALL_STEPS):  # one that stands there three times is three rules
    setattr(AnyWorld, f"{name}_{place}", a_rule(name))

TestAnyWorld = AnyWorld.TestCase
TestAnyWorld.settings = settings(
    max_examples=200 // EVERY,
    stateful_step_count=80,
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
