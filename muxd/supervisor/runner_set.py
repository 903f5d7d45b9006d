"""The runners of all workers, and the models that they run: as configured, and as a reload takes them over."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from muxd import status
from muxd.config import Config, Model
from muxd.config.names import did_you_mean
from muxd.config.plan import Step
from muxd.core.spec import Role, group_of
from muxd.engines.routers import RoutedServer
from muxd.errors import ModelNotFound
from muxd.members import Member, members_of
from muxd.workers import RouterRunner, Runner, WorkerContext


class RunnerSet(Mapping[str, Runner]):
    """The runners by their workers' names, in the order of the configuration."""

    def __init__(self, context: WorkerContext, config: Config) -> None:
        self._context = context
        self._configure(config)
        self._runners = {name: self._new(member) for name, member in self._members.items()}

    def _configure(self, config: Config) -> None:
        self.models: dict[str, Model] = {model.name: model for model in config.models}  # as configured now
        self.names = {name: model.name for model in config.models for name in (model.name, *model.served_names)}
        self._members = {member.model.name: member for model in config.models for member in members_of(model)}

    def __getitem__(self, worker: str) -> Runner:
        return self._runners[worker]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runners)

    def __len__(self) -> int:
        return len(self._runners)

    def resolve(self, name: str) -> str:
        """Return the name of the model that has this name or served name; raises ModelNotFound."""
        if name in self.names:
            return self.names[name]
        raise ModelNotFound(f"no model {name}; {did_you_mean(name, self.names)}", model=name)

    def concurrency_limit(self, model: str) -> int:
        """Return how many requests may be at a model's worker at once, by muxd's name; 0 for no limit."""
        return self.models[model].concurrency_limit if model in self.models else 0

    def routed(self, group: str, urls: Iterable[str]) -> list[RoutedServer]:
        """Return the servers of a group at these URLs, as its router is told of them."""
        known = (runner.as_routed for name, runner in self._runners.items() if group_of(name) == group)
        by_url = {server.url: server for server in known}
        return [by_url[url] for url in urls if url in by_url]

    def take_over(self, config: Config, steps: Iterable[Step]) -> None:
        """Take over a reloaded configuration: add the runners of new models, and update those that go on as they are.

        Runners that need a new process are renewed, and removed ones deleted, when the core commands it.
        """
        self._configure(config)
        for step in steps:
            later = {worker for verb, worker in step.workers if verb == "restart"}
            for member in members_of(self.models[step.model]) if step.action in ("add", "update") else ():
                name = member.model.name
                if name not in self._runners:
                    self._runners[name] = self._new(member)
                elif step.action == "update" and name not in later:
                    self._runners[name].update(member.model)
        in_order = {name: self._runners[name] for name in self._members if name in self._runners}
        self._runners = in_order | self._runners

    def renew(self, worker: str) -> None:
        """Let a worker without a process be what the configuration says; one of a larger group is new."""
        member = self._members[worker]
        if worker in self._runners:
            self._runners[worker].renew(member.model)
        else:
            self._runners[worker] = self._new(member)

    def remove(self, worker: str) -> None:
        """Forget a worker that a reload has removed, and that has ended."""
        del self._runners[worker]

    def logs_of(self, workers: Iterable[str]) -> tuple[dict[str, Path], dict[str, Any] | None]:
        """Return the log files of some workers, and what the disk refused; of several each has its worker's name."""
        runners = {worker: self._runners[worker] for worker in workers}
        files = {
            f"{worker} {stream}" if len(runners) > 1 else stream: path
            for worker, runner in runners.items()
            for stream, path in runner.log_files.items()
        }
        lost = (status.lost(runner.dropped) for runner in runners.values())
        return files, next((each for each in lost if each is not None), None)

    def _new(self, member: Member) -> Runner:
        return (RouterRunner if member.role is Role.ROUTER else Runner)(member.model, self._context)
