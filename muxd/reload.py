"""A new configuration in a running muxd: read, compared, and taken over whole or not at all.

What it means for the workers is the core's business; here is what has to be known first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from .config import Config
from .config.plan import Plan, plan_of
from .errors import ConfigError, NeedsRestart, in_words
from .gpus import are_simulated
from .threads import in_thread

#: Reads what muxd was started with again; raises ConfigError.
Reread = Callable[[], Config]


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration that can be taken over, and what that does."""

    wanted: Config
    plan: Plan
    opens: bool = False  # it takes the last API key away
    taken_over: trio.Event = field(default_factory=trio.Event, compare=False)

    def changed(self) -> frozenset[str]:
        """The models that need other processes than they have."""
        return frozenset(step.model for step in self.plan.steps if step.action == "restart")


async def read_again(reread: Reread, running: Config) -> Reload:
    """Raises ConfigError, and NeedsRestart for what a running muxd cannot change."""
    try:
        # Files, perhaps on a disk that hangs: muxd must be able to end all the same.
        wanted = await in_thread(reread, abandon_on_cancel=True)
    except OSError as error:
        raise ConfigError([f"the configuration cannot be read again: {in_words(error)}; nothing was changed"]) from None
    plan = plan_of(running, wanted)
    if are_simulated(wanted) != are_simulated(running):
        raise NeedsRestart(
            "simulated models for real ones, or the reverse, take a restart of muxd; nothing was changed"
        )
    if plan.needs_restart:
        keys = ", ".join(plan.needs_restart)
        raise NeedsRestart(
            f"{keys} cannot be changed while muxd runs: restart muxd, or take the change back; nothing was changed",
            keys=list(plan.needs_restart),
        )
    return Reload(wanted, plan, opens=bool(running.keys) and not wanted.keys)
