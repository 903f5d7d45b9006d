"""Reload: a new configuration is read, compared with the running one, and taken over whole or not at all.

This module reads and compares.  The core decides what the new configuration means for the workers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from .config import Config
from .config.folders import writable_by_others
from .config.lines import KeyPath, line_of
from .config.plan import Plan, plan_of
from .config.sources import Source, read_sources
from .engines.gpu_source import are_pretend
from .errors import ConfigError, NeedsRestart, in_words
from .threads import in_thread

#: A function that reads again the configuration that muxd was started with; raises ConfigError.
Reread = Callable[[], Config]

_SHUT = "`muxctl keys add NAME` shuts the door again"


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration that can be taken over, and the plan of what changes."""

    wanted: Config
    plan: Plan
    warnings: tuple[str, ...] = ()  # that nobody needs a key any more, and files that others may write
    news: str = "the configuration was read again and taken over"
    taken_over: trio.Event = field(default_factory=trio.Event, compare=False)

    def changed(self) -> frozenset[str]:
        """Return the models whose worker needs a new process."""
        return frozenset(step.model for step in self.plan.steps if step.action == "restart")


async def read_again(reread: Reread, running: Config) -> Reload:
    """Read the configuration again and compare it with the running one.

    Raises ConfigError, and NeedsRestart for a change that a running muxd cannot take over.
    """
    try:
        # The files may lie on a disk that hangs: a shutdown must not wait for this thread.
        wanted = await in_thread(reread, abandon_on_cancel=True)
    except OSError as error:
        raise ConfigError([f"the configuration cannot be read again: {in_words(error)}; nothing was changed"]) from None
    plan = plan_of(running, wanted)
    if are_pretend(wanted) != are_pretend(running):
        raise NeedsRestart(
            "simulated models for real ones, or the reverse, take a restart of muxd; nothing was changed"
        )
    if plan.needs_restart:
        places = await in_thread(partial(_with_places, wanted, plan.needs_restart), abandon_on_cancel=True)
        keys = ", ".join(places)
        raise NeedsRestart(
            f"{keys} cannot be changed while muxd runs: restart muxd, or take the change back; nothing was changed",
            keys=list(plan.needs_restart),
        )
    warnings = await in_thread(partial(writable_by_others, wanted), abandon_on_cancel=True)
    if running.keys and not wanted.keys:
        warnings.insert(0, f"no API key is left: anybody who reaches the proxy may use the models; {_SHUT}")
    return Reload(wanted, plan, tuple(warnings))


def _with_places(config: Config, keys: tuple[str, ...]) -> list[str]:
    """Return the keys, each behind the file and line that set it, where a file does."""
    main, parts, _ = read_sources(config.path) if config.path is not None else (None, [], [])
    sources = [*([main] if main is not None else []), *parts]
    return [_with_place(tuple(key.split(".")), sources) for key in keys]


def _with_place(path: KeyPath, sources: list[Source]) -> str:
    """Return one key behind its file and line; where several files set the key, the last one counts."""
    for source in reversed(sources):
        if source.has(path) and (line := line_of(path, source.lines)):
            return f"{source.file}:{line}: {'.'.join(path)}"
    return ".".join(path)
