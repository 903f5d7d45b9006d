"""A new configuration in a running muxd: read, compared, and taken over whole or not at all.

What it means for the workers is the core's business; here is what has to be known first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from .config import Config
from .config.folders import writable_by_anybody
from .config.lines import KeyPath, line_of
from .config.plan import Plan, plan_of
from .config.sources import Source, read_sources
from .errors import ConfigError, NeedsRestart, in_words
from .gpus import are_simulated
from .threads import in_thread

#: Reads what muxd was started with again; raises ConfigError.
Reread = Callable[[], Config]


_SHUT = "`muxctl keys add NAME` shuts the door again"


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration that can be taken over, and what that does."""

    wanted: Config
    plan: Plan
    warnings: tuple[str, ...] = ()  # whom it lets in, and files that anybody may write
    news: str = "the configuration was read again and taken over"
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
        places = await in_thread(partial(_places, wanted, plan.needs_restart), abandon_on_cancel=True)
        keys = ", ".join(places)
        raise NeedsRestart(
            f"{keys} cannot be changed while muxd runs: restart muxd, or take the change back; nothing was changed",
            keys=list(plan.needs_restart),
        )
    warnings = await in_thread(partial(writable_by_anybody, wanted), abandon_on_cancel=True)
    if running.keys and not wanted.keys:
        warnings.insert(0, f"no API key is left: anybody who reaches the proxy may use the models; {_SHUT}")
    return Reload(wanted, plan, tuple(warnings))


def _places(config: Config, keys: tuple[str, ...]) -> list[str]:
    """Each with its file and line, where a file says it."""
    main, parts, _ = read_sources(config.path) if config.path is not None else (None, [], [])
    sources = [*([main] if main is not None else []), *parts]
    return [_place(tuple(key.split(".")), sources) for key in keys]


def _place(path: KeyPath, sources: list[Source]) -> str:
    """The file that said it last counts."""
    for source in reversed(sources):
        if source.has(path) and (line := line_of(path, source.lines)):
            return f"{source.file}:{line}: {'.'.join(path)}"
    return ".".join(path)
