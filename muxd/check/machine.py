"""Checks of what the models of a configuration share: interpreters, GPUs, ports, folders."""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

from muxd.children import RUN_DIR, mark_of, token_of
from muxd.config.findings import Finding
from muxd.config.flags import runs_on_cpu
from muxd.config.folders import why_not_had
from muxd.config.lines import KeyPath
from muxd.config.model_schema import Model
from muxd.config.problems import Problems, shown_file
from muxd.config.schema import Config, GiB, MiB
from muxd.core.ledger import GpuId, in_order
from muxd.engines.engine_packages import Interpreter
from muxd.engines.installed_flags import flags_to_ask
from muxd.engines.kind import ArgFault, InstallationChecks, NotInstalled
from muxd.engines.registry import ENGINES, kind_of
from muxd.errors import EngineMissing
from muxd.gpus import GpuMemory
from muxd.host.bounded import NoAnswer, within
from muxd.host.hardware import ReadGpus, host_memory
from muxd.host.port_holders import holder_of
from muxd.own_files import why_too_open
from muxd.pool_share import cores
from muxd.shim.processes import look_up
from muxd.strangers import reckoned, strangers_among

from .report import ReportLine, ok, warn, wrong
from .scripts import Text

#: Bytes that a disk should have left: a log grows to log_max_bytes, by default 64 MiB.
ENOUGH_ROOM = 64 * MiB

#: Seconds that muxd's own socket may take to answer.
SOCKET_PATIENCE = 1.0


class HostReadings:
    """The GPUs and the RAM of this machine, each read once."""

    def __init__(self, gpus: ReadGpus) -> None:
        self._read_gpus = gpus

    @cached_property
    def gpus(self) -> tuple[Sequence[GpuMemory], str]:
        """Return the GPUs; if there are none, also why."""
        try:
            return within(self._read_gpus)
        except NoAnswer as error:
            return [], str(error)

    @cached_property
    def memory(self) -> int:
        """Return the bytes of RAM; 0 if unknown."""
        try:
            return within(host_memory)
        except NoAnswer:
            return 0


class HostCheck:
    """A configuration and this machine: the context of all checks.  `broken` names models that are not checked."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        problems: Problems,
        broken: frozenset[str],
        readings: HostReadings,
    ) -> None:
        self.config = config
        self.problems = problems
        self._environ = environ
        self._readings = readings
        self.with_router: set[str] = set()  # models whose router can be started
        self.without_engine: set[str] = set()  # models whose interpreter does not have it
        self.unfit: dict[str, list[Finding]] = {}  # by model: what its engine's version cannot do for it
        self.rejected: dict[str, tuple[str, list[ArgFault]]] = {}  # by model, or half: interpreter, its engine's word
        self.models = [model for model in config.models if model.name not in broken]

    def environ_of(self, model: Model) -> dict[str, str]:
        """Return the environment of the model's worker."""
        return {**self._environ, **model.env}

    def where(self, model: Model, *key: str) -> str:
        """Return FILE:LINE of a key of the model, in its own table or in [defaults]."""
        own: KeyPath = ("models", model.name, *key)
        shared: KeyPath = ("defaults", *key)
        by_default = key and not self.problems.said(own[:3]) and self.problems.said(shared[:2])
        return self.problems.where(shared if by_default else own)

    def has_said(self, model: Model, key: str) -> bool:
        """Say whether the model's own table or [defaults] has the key."""
        return self.problems.said(("models", model.name, key)) or self.problems.said(("defaults", key))

    @cached_property
    def gpus(self) -> dict[GpuId, GpuMemory]:
        """Return the GPUs that NVML knows, by id."""
        return {gpu.id: gpu for gpu in self._readings.gpus[0]}

    @cached_property
    def sized_gpus(self) -> dict[GpuId, GpuMemory]:
        """Return the GPUs whose sizes are known, by id: those of NVML; without any, those in [gpus]."""
        sizes = self.config.gpus.memory
        return self.gpus or {id: GpuMemory(id, "", int(size), 0) for id, size in sizes.items()}

    @cached_property
    def simulated_gpus(self) -> dict[GpuId, GpuMemory]:
        """Return the pretend GPUs that models name, by id."""
        found: dict[GpuId, GpuMemory] = {}
        for kind in ENGINES.values():
            if kind.pretend_gpus is not None:
                named = in_order({gpu for model in self.models if model.engine == kind.name for gpu in model.gpus})
                found |= {gpu.id: gpu for gpu in kind.pretend_gpus.read(self.config, named)}
        return found

    def room(self, gpu: GpuMemory) -> int:
        """Return the bytes that models may have of a GPU together, where strangers leave them."""
        return self.config.gpus.most(gpu.id, gpu.total)

    @property
    def memory(self) -> int:
        """Return the bytes of RAM; 0 if unknown."""
        return self._readings.memory

    @property
    def real_models(self) -> list[Model]:
        """Return the models whose servers run on this machine's GPUs, or CPU: neither simulated nor elsewhere."""
        kinds = [(model, kind_of(model)) for model in self.models]
        return [model for model, kind in kinds if kind.capabilities.uses_gpus and not kind.is_pretend]

    @cached_property
    def is_running(self) -> bool:
        """Say whether a muxd answers at this configuration's socket: its ports are then held by muxd itself."""

        def ask() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(SOCKET_PATIENCE)
                return client.connect_ex(os.fsencode(self.config.daemon.socket)) == 0

        try:
            return within(ask)
        except NoAnswer:
            return False

    @cached_property
    def not_served(self) -> dict[str, str]:
        """Return what keeps servers that run elsewhere from serving now, by model; "" for nothing.

        All of an engine are asked at once, those whose router can be started: it is for who has looked at the routers.
        """
        found: dict[str, str] = {}
        for kind in ENGINES.values():
            models = [(model, self.environ_of(model)) for model in self.models if model.engine == kind.name]
            models = [(model, environ) for model, environ in models if model.name in self.with_router]
            if kind.why_not_served is not None and models:
                found |= kind.why_not_served(models, self.config.daemon)
        return found

    def is_left_over(self, pid: int) -> bool:
        """Say whether an earlier muxd with this state_dir has started the process, and the next one looks after it."""
        with suppress(OSError, NoAnswer):
            run_dir = self.config.daemon.state_dir / RUN_DIR
            return pid > 0 and within(lambda: token_of(pid).startswith(mark_of(run_dir)))
        return False

    def _is_workers(self, pid: int) -> bool | None:
        """Say whether an earlier muxd has left the process; None where there is no such process here."""
        return None if look_up(pid) is None else self.is_left_over(pid)

    def gpu_lines(self) -> Iterator[ReportLine]:
        """Yield lines on the simulated and on the real GPUs, and on missing ones."""
        if pretend := self.simulated_gpus:
            size = self.config.daemon.simulated_gpu_memory / GiB
            yield ok("GPUs", f"{', '.join(pretend)}: simulated, {size:.1f} GiB each")
            yield from self._stranger_lines(pretend)
        if not self.real_models:
            yield from self._budget_lines(pretend)
            return
        if not self.gpus and not all(runs_on_cpu(model.args) for model in self.real_models):
            why = self._readings.gpus[1]
            yield warn("GPUs", f"none can be seen: {why}; install the driver, or give this user or container the GPUs")
        if self.gpus:
            gpu_list = ", ".join(f"{gpu.id}: {gpu.name}, {gpu.total / GiB:.1f} GiB" for gpu in self.gpus.values())
            yield ok("GPUs", gpu_list)
            yield from self._stranger_lines(self.gpus)
            yield from self._budget_lines(pretend | self.gpus)

    def _stranger_lines(self, gpus: Mapping[GpuId, GpuMemory]) -> Iterator[ReportLine]:
        """Yield a line for each GPU of which processes have memory that no muxd started.

        A muxd that runs shows them in its status; what an earlier one has left is ended by the next one's start.
        """
        for gpu in gpus.values() if not self.is_running else ():
            found = strangers_among(gpu.holders, self._is_workers, has_workers=False) or reckoned(gpu.used)
            if found.size:
                yield warn("GPUs", f"GPU {gpu.id}: {found}; models have what they leave")

    def _budget_lines(self, gpus: Mapping[GpuId, GpuMemory]) -> Iterator[ReportLine]:
        """Yield lines on what [gpus] says and these GPUs cannot be."""
        budgets, where = self.config.gpus, self.problems.where(("gpus", "memory"))
        for id, size in budgets.memory.items():
            if id not in gpus and self.real_models:
                yield wrong("GPUs", f"GPU {id} is not there: there is {', '.join(gpus)}; correct memory", where)
            elif id in gpus and size > gpus[id].total:
                has = f"GPU {id} has {gpus[id].total / GiB:.1f} GiB in all"
                yield wrong("GPUs", f"{has}, and memory gives models {size / GiB:.1f} GiB; lower it", where)
        for gpu in gpus.values():
            if budgets.reserve >= gpu.total:
                text = f"a reserve of {budgets.reserve / GiB:.1f} GiB leaves nothing of GPU {gpu.id}, which has"
                where = self.problems.where(("gpus", "reserve"))
                yield wrong("GPUs", f"{text} {gpu.total / GiB:.1f} GiB; lower it", where)


def interpreter_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line for each interpreter; note in `machine` what its engine has against the models' arguments."""
    seen: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Model]] = {}
    for model in machine.models:
        if kind_of(model).installation is not None and (python := _python_of(machine, model)) is not None:
            seen.setdefault((model.engine, python, tuple(sorted(model.env.items()))), []).append(model)
    yielded = set()
    for (engine, python, _), models in seen.items():
        checks, environ = ENGINES[engine].installation, machine.environ_of(models[0])
        assert checks is not None
        found, line = _interpreter_line(machine, models[0], python, environ, checks)
        if line not in yielded:
            yielded.add(line)
            yield line
        if found is not None:
            machine.unfit |= {model.name: list(checks.unfit(model, found)) for model in models}
            yield from _ask_for_rejected(machine, models, python, environ, checks)
        else:
            machine.without_engine |= {model.name for model in models}


def _python_of(machine: HostCheck, model: Model) -> str | None:
    """Return the model's interpreter; None if it is missing, which another check reports, or only a script knows it."""
    if model.script is None:
        return shutil.which(model.engine_options.python, path=machine.environ_of(model).get("PATH"))
    program = Path(model.script.program)
    if program.name == str(program) and program.name.startswith("python"):
        return Text(model, model.script, machine.environ_of(model)).python(str(program))
    is_there = program.is_absolute() and program.name.startswith("python") and os.access(program, os.X_OK)
    return str(program) if is_there else None


def _interpreter_line(
    machine: HostCheck, model: Model, python: str, environ: Mapping[str, str], checks: InstallationChecks
) -> tuple[Interpreter | None, ReportLine]:
    """Return the interpreter with its engine, None where it has none, and the line on it."""
    where = model.script.launch if model.script is not None else machine.where(model, "python")
    try:
        found = checks.package.look(python, environ)
        return found, ok("python", f"{python}: {found}")
    except NotInstalled as error:
        unseen = "; args are not checked" if any(m.args for m in machine.real_models if m.script is None) else ""
        code = f" ({EngineMissing.code})" if error.is_missing else ""
        mark = wrong if error.is_missing and model.script is None else warn  # a script may choose another
        return None, mark("python", f"{python}: {error}{code}; {checks.remedy(python)}{unseen}", where)


def _ask_for_rejected(
    machine: HostCheck, models: Sequence[Model], python: str, environ: Mapping[str, str], checks: InstallationChecks
) -> Iterator[ReportLine]:
    """Note in `machine` what an interpreter's engine has against the models' arguments; yield a line if it fails.

    Models without arguments of their own, and scripts whose flags are not all plain, are left out: the parser takes
    seconds.
    """
    args_by_model: dict[str, Sequence[str]] = {}
    for model in models:
        if model.script is None:
            args_by_model |= flags_to_ask(model, checks)
        elif flags := Text(model, model.script, machine.environ_of(model)).flags():
            args_by_model[model.name] = flags
    if not args_by_model:
        return
    try:
        rejected = checks.package.rejected_args(python, environ, args_by_model)
    except NotInstalled as error:
        yield warn("python", f"{python}: args were not compared with its flags: {error}")
        return
    machine.rejected |= {name: (python, faults) for name, faults in rejected.items()}


def core_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line where the proxy has more processes than there are cores for them."""
    wanted, found = machine.config.proxy.processes, cores()
    if wanted is not None and wanted > max(1, found):
        text = f"{wanted} processes, and {found} core{'s' if found > 1 else ''} that they may use: more gain nothing"
        yield warn("proxy", f'{text}; write processes = "auto"', machine.problems.where(("proxy", "processes")))


def port_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield lines on the ports that the configuration names: of the proxy, its metrics, and the models."""
    proxy, problems = machine.config.proxy, machine.problems
    named = [("port", proxy.host, proxy.port, problems.where(("proxy", "listen")))]
    if proxy.metrics_listen is not None:
        named.append(("port", *proxy.metrics_listen, problems.where(("proxy", "metrics_listen"))))
    named += [(model.name, "127.0.0.1", model.port, machine.where(model, "port")) for model in machine.models]
    for subject, host, port, where in named:
        if port:
            yield from _port_line(machine, subject, host, port, where)


def _port_line(machine: HostCheck, subject: str, host: str, port: int, where: str) -> Iterator[ReportLine]:
    try:
        holder = within(lambda: holder_of(host, port))
    except NoAnswer as error:
        yield warn(subject, f"{host}:{port} cannot be had: {str(error).lower()}; correct the address", where)
        return
    if holder is None:
        if subject == "port":
            yield ok(subject, f"{port} is free")
    elif machine.is_running:
        yield ok(subject, f"{port} is held by {holder}: muxd is running")
    elif machine.is_left_over(holder.pid):
        effect = "takes it over" if subject == "port" else "ends that"
        yield ok(subject, f"{port} is held by {holder}, which a muxd that is gone has left: muxd start {effect}")
    else:
        yield warn(subject, f"{port} is held by {holder}: end it, or use another port", where)


def folder_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield lines on muxd's folders: whether this user can have them, who else may write there, what room is left."""
    daemon, reported = machine.config.daemon, machine.problems.paths()
    told: set[str] = set()
    for key, folder in (("socket", daemon.socket.parent), ("state_dir", daemon.state_dir), ("log_dir", daemon.log_dir)):
        with suppress(NoAnswer):
            why = within(partial(why_not_had, folder)) if ("muxd", key) not in reported else None
            if why and not any(folder.is_relative_to(above) for above in told):
                told.add(str(folder))
                subject = "socket" if key == "socket" else "muxd"
                said = machine.problems.said(("muxd", key))
                yield wrong(subject, f"muxd.{key}: {why}", machine.problems.where(("muxd", key)) if said else "")
    for key, folder, others_may in (("state_dir", daemon.state_dir, 0), ("log_dir", daemon.log_dir, 0o020)):
        where = machine.problems.where(("muxd", key)) if machine.problems.said(("muxd", key)) else ""
        with suppress(NoAnswer):
            if why := within(partial(_too_open, folder, key, others_may)):
                yield wrong("muxd", why, where)
        with suppress(NoAnswer):
            is_usable = ("muxd", key) not in reported
            if is_usable and (room := within(partial(_free_bytes, folder))) < ENOUGH_ROOM:
                text = f"{key} {shown_file(folder)}: its disk has {room >> 20} MiB left; free some, or name another"
                yield warn("muxd", text, where)


def _too_open(folder: Path, key: str, others_may: int) -> str:
    return why_too_open(folder, folder.stat().st_mode, key, others_may)


def _free_bytes(folder: Path) -> int:
    """Return the bytes left on the disk where the folder is or will be made."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free
