"""Reload: a new configuration is read, compared with the running one, and taken over whole or not at all.

The core decides what the new configuration means for the workers: it is told `ConfigurationReloaded`, an event that
carries what the supervisor takes over at the same moment.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import Any

import trio

from muxd.config import Config
from muxd.config.folders import writable_by_others
from muxd.config.lines import KeyPath, line_of, shown_path
from muxd.config.plan import Plan, plan_of
from muxd.config.sources import Source, read_sources
from muxd.config.written import written_since
from muxd.core.events import Reconfigured
from muxd.engines.gpu_source import are_pretend
from muxd.engines.installed_flags import changed_models, faults_of_a_reload
from muxd.engines.routers.installed_parser import faults_of_new_routers
from muxd.errors import ConfigError, NeedsRestart, ShuttingDown, in_words
from muxd.launchers.observed_scripts import completed
from muxd.members import by_worker, default_group, spec_of
from muxd.own_log import setup_logging
from muxd.threads import in_thread
from muxd.ticks import next_tick

from .context import SupervisorContext

log = logging.getLogger(__name__)

#: A function that reads again the configuration that muxd was started with; raises ConfigError.
Reread = Callable[[], Config]

#: Seconds that the files may take to be read, which is a matter of milliseconds.
READING = 30.0

_SHUT = "`muxctl keys add NAME` shuts the door again"


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration that can be taken over, and the plan of what changes."""

    wanted: Config
    plan: Plan
    warnings: tuple[str, ...] = ()  # that nobody needs a key any more, and files that others may write
    news: str = "the configuration was read again and taken over"
    by: str = ""  # the operator
    taken_over: trio.Event = field(default_factory=trio.Event, compare=False)

    def changed(self) -> frozenset[str]:
        """Return the models whose worker needs a new process."""
        return frozenset(step.model for step in self.plan.steps if step.action == "restart")

    def routers(self) -> frozenset[str]:
        """Return the models of which the router alone needs a new process."""
        return frozenset(step.model for step in self.plan.steps if any(verb == "restart" for verb, _ in step.workers))


class ConfigurationReloaded(Reconfigured, frozen=True, kw_only=True):
    """A reload is to be taken over: by the core as a new configuration, by the supervisor with all that it carries."""

    reload: Reload


class Reloader:
    """The running configuration, and the one way to another: read, compare, tell the core, take over."""

    def __init__(self, context: SupervisorContext, reread: Reread, stopping: trio.Event) -> None:
        self.config = context.workers.config
        self.is_written = False  # the configuration's files were written since muxd read them
        self.failed: dict[str, Any] | None = None  # when and why the last reload failed; None: it did not
        self._context = context
        self._reread = reread
        self._stopping = stopping
        self._one_at_a_time = trio.Lock()
        context.workers.scripts.on_news = self._take_over_observed

    async def reload(self, *, dry_run: bool = False, by: str = "") -> dict[str, Any]:
        """Read the configuration again and take it over, or with `dry_run` only return the plan.

        Concurrent reloads wait for one another.  Raises ConfigError, NeedsRestart or ShuttingDown, each with nothing
        changed.
        """
        async with self._one_at_a_time:
            reload = await read_again(self._reread, self.config)
            if self._stopping.is_set():
                raise ShuttingDown("muxd is shutting down; nothing was changed")
            if not dry_run:
                await self._context.measurements.weigh_models(reload.wanted)
                await self._apply(replace(reload, by=by))
        files = [str(file) for file in reload.wanted.files]
        return {"applied": not dry_run, "files": files, "warnings": list(reload.warnings), **reload.plan.as_json()}

    async def _apply(self, reload: Reload) -> None:
        specs, policy = tuple(map(spec_of, reload.wanted.models, repeat(reload.wanted.daemon))), reload.wanted.policy
        self._context.tell(
            ConfigurationReloaded(
                time=trio.current_time(),
                specs=specs,
                changed=reload.changed(),
                routers=reload.routers(),
                wait_target=policy.wait_target,
                keep_turns=policy.keep_turns,
                default=default_group(policy),
                batch_max_wait=policy.batch_max_wait,
                reload=reload,
            )
        )
        await reload.taken_over.wait()
        await self._context.measurements.measure_gpus(self.config)  # models may have more or less of them now

    async def _take_over_observed(self) -> None:
        """Put what muxd has just observed of a launch script's server into the configuration, and take that over.

        A server that uses other GPUs than it was granted is started again; every other difference takes effect at
        once.
        """
        async with self._one_at_a_time:
            wanted = completed(self.config, self._context.workers.scripts.known)
            workers, steps = self._context.view.host().workers, []
            for step in plan_of(self.config, wanted).steps:
                before, after = (next(m for m in c.models if m.name == step.model) for c in (self.config, wanted))
                holds = step.model in workers and workers[step.model].is_awake
                strays = holds and not set(after.gpus) <= set(before.gpus)
                steps.append(replace(step, action="restart" if strays else "update"))
                for contradiction in after.script.contradictions if after.script is not None else ():
                    log.warning("%s: %s", step.model, contradiction)
            if steps and not self._stopping.is_set():
                plan = Plan(tuple(steps))
                await self._apply(
                    Reload(wanted, plan, news="servers of launch scripts were seen, and taken as they are")
                )

    def take_over(self, reload: Reload) -> None:
        """Make the reloaded configuration the current one, just before the core handles the event that carries it.

        The loop calls this without a checkpoint between the two, so that no request sees one configuration here and
        another in the core.
        """
        context = self._context
        context.workers.gpus.cover(gpu for model in reload.wanted.models for gpu in model.gpus)
        context.workers.withhold(reload.wanted)
        self.config = reload.wanted
        self.is_written, self.failed = False, None
        context.runners.take_over(self.config, reload.plan.steps)
        context.history.keep_models(model.name for model in self.config.models)
        context.proxy.reconfigure(self.config)
        context.sessions.places.renew()
        if any(key.startswith("muxd.log_") for key in reload.plan.settings):
            setup_logging(self.config.daemon.log_level, self.config.daemon.log_format)
        context.journal.record("reload", **reload.plan.as_json(), by=reload.by or None)
        log.info("%s: %s", reload.news, reload.plan)
        for warning in reload.warnings:
            log.warning("%s", warning)
        reload.taken_over.set()

    async def watch_files(self, interval: float) -> None:
        """Look every `interval` seconds whether the files were written; a look costs more CPU than the loop's tick."""
        while True:
            config = self.config
            written = await in_thread(partial(written_since, config), abandon_on_cancel=True)
            self.is_written = written and config is self.config
            await next_tick(interval)


async def read_again(reread: Reread, running: Config) -> Reload:
    """Read the configuration again and compare it with the running one.

    Raises ConfigError, and NeedsRestart for a change that a running muxd cannot take over.
    """
    try:
        # The files may lie on a disk that hangs: neither a shutdown nor another reload must wait for this thread.
        with trio.fail_after(READING):
            wanted = await in_thread(reread, abandon_on_cancel=True)
    except trio.TooSlowError:
        hangs = "a disk that hangs, or a pipe into which nobody writes"
        raise ConfigError(
            [f"the configuration could not be read within {READING:g} s ({hangs}?); nothing was changed"]
        ) from None
    except OSError as error:
        raise ConfigError([f"the configuration cannot be read again: {in_words(error)}; nothing was changed"]) from None
    plan = _by_worker(plan_of(running, wanted), running, wanted)
    if are_pretend(wanted) != are_pretend(running):
        raise NeedsRestart(
            "simulated models for real ones, or the reverse, take a restart of muxd; nothing was changed"
        )
    if plan.needs_restart:
        changed = [tuple(key.split(".")) for key in plan.needs_restart]
        places = await in_thread(partial(_with_places, wanted, changed), abandon_on_cancel=True)
        keys = ", ".join(places)
        raise NeedsRestart(
            f"{keys} cannot be changed while muxd runs: restart muxd, or take the change back; nothing was changed",
            keys=list(plan.needs_restart),
        )
    warnings = await in_thread(partial(_refuse_what_cannot_start, wanted, running), abandon_on_cancel=True)
    warnings += await in_thread(partial(writable_by_others, wanted), abandon_on_cancel=True)
    if running.keys and not wanted.keys:
        warnings.insert(0, f"no API key is left: anybody who reaches the proxy may use the models; {_SHUT}")
    return Reload(wanted, plan, tuple(warnings))


def _refuse_what_cannot_start(wanted: Config, running: Config) -> list[str]:
    """Raise ConfigError if an engine or a router that is installed refuses flags that it would be given anew.

    Return what is likely a mistake otherwise.  A reload ends what serves: their own parsers are asked first.
    """
    changed = changed_models(wanted.models, running.models)
    refused, warnings = list(faults_of_new_routers(changed, os.environ)), []
    for key, fault in faults_of_a_reload(changed, os.environ):
        if fault.is_refused:
            refused.append((key, fault.text))
        else:
            warnings.append(f"{shown_path(key)}: {fault.text}")
    if refused:
        texts = zip(_with_places(wanted, [key for key, _ in refused]), refused, strict=True)
        raise ConfigError([f"{place}: {text}; nothing was changed" for place, (_, text) in texts])
    return warnings


def _by_worker(plan: Plan, running: Config, wanted: Config) -> Plan:
    """Return a plan by which those workers alone change, of models with several, that must."""
    before, after = ({model.name: model for model in config.models} for config in (running, wanted))
    steps = (
        by_worker(step, before[step.model], after[step.model]) if step.action == "restart" else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def _with_places(config: Config, keys: Iterable[KeyPath]) -> list[str]:
    """Return the keys, each behind the file and line that set it, where a file does."""
    main, parts, _ = read_sources(config.path) if config.path is not None else (None, [], [])
    sources = [*([main] if main is not None else []), *parts]
    return [_with_place(key, sources) for key in keys]


def _with_place(path: KeyPath, sources: list[Source]) -> str:
    """Return one key behind its file and line; where several files set the key, the last one counts.

    A model's key may stand in [defaults].
    """
    shared = [("defaults", *path[2:])] if path[0] == "models" else []
    for each in (path, *shared):
        for source in reversed(sources):
            if source.has(each) and (line := line_of(each, source.lines)):
                return f"{source.file}:{line}: {shown_path(path)}"
    return shown_path(path)
