"""A server of OpenAI's API that a command of the user's has started.

Nothing is known of it but what the model's keys say: where it answers once it is ready, and by which steps it sleeps
and wakes.  It runs no request of muxd's clients when it is put to sleep, by the proxy's own count of them.
"""

import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from muxd.config.command_lines import Command
from muxd.config.engine_options import OpenAIOptions
from muxd.config.flags import flag_of
from muxd.config.model_schema import Model
from muxd.config.server_commands import HookStep, filled, placeholders_in
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import SERVER_PID, CommandSpec, LaunchContext, ServerKeys
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.log_patterns import GENERAL_PATTERNS
from muxd.engines.observed_server import ObservedServer
from muxd.engines.openai_api import length_of
from muxd.engines.wake_proof import ProofAnswer
from muxd.errors import MemoryNotReleased, in_words
from muxd.ports import HOST

from .proof import COMPLETIONS, EMBEDDINGS, answer_in, question

#: What a server that sleeps has released: its steps know, muxd does not.
ALL = "by its steps"

PORT_FLAGS = ("--port",)

WORDS = {"engine": "the server", "less_gpu": "let it take less of the GPU by its command, or give it more GPUs"}


class OpenAIServer:
    """One server that a command starts, and whether it sleeps by its own steps."""

    environment: Mapping[str, str] = {}
    stop_signal = signal.SIGTERM
    is_deaf_while_loading = False
    notice = ""
    tells_by_log = False
    gate = None

    def __init__(self) -> None:
        self._ready_path = ""
        self._values: dict[str, Sequence[str]] = {}  # of the placeholders in its present process's commands
        self.is_silent = False
        self.runs_elsewhere = False
        self.bootstrap_port = 0

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        options = _options(model)
        self.is_silent, self._ready_path = bool(context.released), options.ready_path
        # What is ended by another way than its process may be started by others, too: a container, a hook's server.
        self.runs_elsewhere = bool(options.stop_command) and "pid" not in placeholders_in(options.stop_command)
        self._values = {
            "port": (str(context.port),),
            "host": (HOST,),
            "model": (model.name,),
            "model_path": (model.model_path,),
            "gpus": (",".join(model.gpus),),
        }
        return CommandSpec(
            argv=filled(options.command, self._values),
            own_stop_signal=signal.Signals[options.stop_signal],
            stop_command=filled(options.stop_command, {**self._values, "pid": (SERVER_PID,)}),
            keys=ServerKeys("", ""),  # what muxd has no key for is shown none
        )

    async def is_ready(self, link: EngineClient) -> bool:
        return _is_success(await link.probe(self._ready_path))

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        options = _options(model)
        return _is_success(await link.probe(options.health_path or options.ready_path))

    async def unfitness(self, link: EngineClient, model: Model) -> Diagnosis | None:
        return None

    async def sleep(self, link: EngineClient, model: Model, level: int, released: Sequence[str]) -> list[str]:
        await self._go("sleep", link, _options(model).sleep)
        self.is_silent = True
        return [ALL]

    async def prepare_wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        pass

    async def wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        await self._go("wake", link, _options(model).wake)
        self.is_silent = False

    async def _go(self, what: str, link: EngineClient, steps: Sequence[HookStep]) -> None:
        """Take the steps one after the other; raise EngineCallFailed at the first one that fails."""
        for number, step in enumerate(steps, 1):
            verb = f"{what} step {number} of {len(steps)}"
            if step.method:
                await link.send(verb, step.method, step.path, step.body, step.headers)
            else:
                await link.run(verb, filled(step.command, {**self._values, **_running(link)}))

    async def proof(self, link: EngineClient, model: Model) -> ProofAnswer | None:
        """Ask for text or, where the key `routes` has no completions, for a vector; None where it has neither."""
        routes = _options(model).routes or (COMPLETIONS,)
        path = next((each for each in (COMPLETIONS, EMBEDDINGS) if each in routes), None)
        if path is None:
            return None
        name = model.upstream_name or model.served_names[0]
        return answer_in(path, await link.prove(path, question(path, name)))

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        remedy = "correct its steps in sleep, raise gpu_release_timeout, or use sleep_level = 3"
        return Diagnosis(MemoryNotReleased.code, over, remedy)

    async def is_idle(self, link: EngineClient) -> bool | None:
        """Return None: such a server does not say what it runs."""
        return None

    async def metrics(self, link: EngineClient) -> bytes | None:
        """Return None: what such a server counts, and under which names, is not known."""
        return None

    async def context_length(self, link: EngineClient) -> int | None:
        return await length_of(link)

    async def is_generation(self, link: EngineClient) -> bool | None:
        """Return None: it does not say."""
        return None

    def leftovers(self, pids: Iterable[int]) -> list[Path]:
        return []

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        if evidence.is_alive:
            return None
        known = diagnosis.of_log(evidence, GENERAL_PATTERNS, model, WORDS)
        if known is not None or evidence.timed_out:
            return known
        return diagnosis.of_end(evidence, was_killed=evidence.was_killed)

    def diagnose_answer(self, call: str, status: int, body: str) -> Diagnosis | None:
        return None

    # Which of its processes is the server, and at which port, muxd has said itself.

    async def find_keys(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        return None

    async def observe(
        self, link: EngineClient | None, port: int, processes: Sequence[Command]
    ) -> ObservedServer | None:
        return ObservedServer(port=port)

    def is_server(self, process: Command) -> bool:
        return flag_of(process.words)(PORT_FLAGS) is not None

    def servers_among(self, processes: Iterable[Command]) -> list[Command]:
        return [process for process in processes if self.is_server(process)]

    def port_told(self, process: Command) -> int | None:
        told = flag_of(process.words)(PORT_FLAGS)
        return int(told) if told is not None and told.isdigit() else None

    def are_parts(self, names: Sequence[str]) -> bool:
        return False

    def diagnose_stranger(self, program: str) -> Diagnosis:
        return diagnosis.of_stranger(program, "a server of OpenAI's API", "/v1/models")


def _options(model: Model) -> OpenAIOptions:
    assert isinstance(model.engine_options, OpenAIOptions)
    return model.engine_options


def _is_success(status: int | None) -> bool:
    return status is not None and status // 100 == 2


def _running(link: EngineClient) -> dict[str, Sequence[str]]:
    """Return the values of the placeholders that stand for its processes; raise EngineCallFailed."""
    assert link.tree is not None
    try:
        return {"pid": (str(link.tree.listener()),), "pids": tuple(map(str, link.tree.pids()))}
    except OSError as error:
        raise EngineCallFailed(f"its processes cannot be seen: {in_words(error)}") from None
