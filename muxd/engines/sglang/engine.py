"""SGLang: flags, probes, and its sleep and wake.

What is stated here of SGLang's behaviour was observed on SGLang 0.5.23 (on a CPU).
"""

import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from muxd.config.command_lines import Command, is_server
from muxd.config.flags import FRACTION, TENSOR, flag_of, parallel
from muxd.config.model_schema import Model
from muxd.engines.diagnosis import Diagnosis, Evidence, of_stranger
from muxd.engines.engine import CommandSpec, LaunchContext
from muxd.engines.engine_client import LOCKED, EngineCallFailed, EngineClient
from muxd.engines.gate import LaunchGate
from muxd.engines.observed_server import ObservedServer
from muxd.engines.openai_api import LENGTH_TIMEOUT, length_of
from muxd.engines.shared_memory import mapped_files
from muxd.engines.wake_proof import ANSWER_TOKENS, LIKELIEST, PROMPT, ProofAnswer, text_answer, vector_answer
from muxd.ports import free_port

from . import diagnosis, observation
from .gate import SGLangGate
from .kind import SGLANG

KV_CACHE, WEIGHTS = "kv_cache", "weights"

#: The memory that a sleep gives up, by level.  No list of tags may be empty: SGLang reads that as "everything".
TAGS = {0: (KV_CACHE,), 1: (KV_CACHE, WEIGHTS), 2: (KV_CACHE, WEIGHTS)}

#: A non-streamed request that was aborted can run on for 4 s.
IDLE_TIMEOUT = 15.0
FIRST_POLL, IDLE_POLL = 0.001, 0.05  # seconds between two reads of /v1/loads: at first, and at most after doubling
STALE = 0.05  # seconds after which figures are read again where the pause had to wait for its record that long

#: The server answers /metrics on its HTTP port.  The flag costs nothing that could be measured: a start takes the same
#: CPU, an idle server 1.8 % of a core with the flag and 1.6 % without; the counters lie in the server's TMPDIR (600 KB)
#: and outlast a sleep.
METRICS = "--enable-metrics"

#: The scheduler blocks until a request comes instead of polling all the time.  No flag says the opposite.
SLEEP_ON_IDLE = "--sleep-on-idle"

#: Bytes of /metrics; 85 KB are usual.
LONGEST_PAGE = 8 << 20

ENVIRONMENT = {
    # A dead scheduler or detokenizer ends the whole server in about 1 s instead of 5 to 70 s.
    "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
    "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
    # /health is a flag, not a generation that takes a second and fails while paused.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
    # Process titles leave /proc/PID/environ alone, by which a sweep finds strays.
    "SPT_NOENV": "1",
}

SHM_FILES = ("sglang_loads_*", "sem.mp-*")


#: The name of a server's bootstrap port among what was chosen for its launch.
BOOTSTRAP = "bootstrap_port"

#: The timestamps in one answer of /v1/loads, one for each rank.
Stamps = tuple[float, ...]


class SGLang:
    """SGLang's dialect, and the last sign of life of one server's schedulers."""

    title = "SGLang"
    environment: Mapping[str, str] = ENVIRONMENT
    stop_signal: signal.Signals = signal.SIGINT
    is_deaf_while_loading = False
    is_silent = False
    runs_elsewhere = False
    notice = ""
    tells_by_log = False
    bootstrap_port = 0
    gate: LaunchGate | None = SGLangGate()

    def __init__(self) -> None:
        # The oldest rank's stamp in /v1/loads, and when (trio's clock) that stamp was first read.
        self._last_step: tuple[float, float] | None = None
        self._is_generation: bool | None = None  # as its server said when it was last asked
        self._weights_path = ""  # as its server said since it fell asleep

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        config = context.workdir / "server.yaml"  # SGLang insists on the ending
        argv = [model.engine_options.python, "-m", "sglang.launch_server", "--config", str(config)]
        argv += [*server_flags(model, context.port), *self._half_flags(model, context), *gate_flags(context)]
        argv += [*_memory_share(model, context.free_gpu_memory), *model.args]
        files = {config: f"admin-api-key: {context.admin_key}\n"}
        return CommandSpec(tuple(argv), files=files, chosen=self._chosen)

    def _half_flags(self, model: Model, context: LaunchContext) -> list[str]:
        """Return the flags of a server that only prefills, or only decodes; one that prefills has a port for that."""
        if not model.half:
            return []
        flags = ["--disaggregation-mode", model.half]
        if model.half == "prefill":
            self.bootstrap_port = int(context.chosen.get(BOOTSTRAP, 0)) or free_port()
            flags += ["--disaggregation-bootstrap-port", str(self.bootstrap_port)]
        return flags

    @property
    def _chosen(self) -> dict[str, str]:
        return {BOOTSTRAP: str(self.bootstrap_port)} if self.bootstrap_port else {}

    async def is_ready(self, link: EngineClient) -> bool:
        status = await link.probe("/ready")
        if status == 404:  # before about 0.5.19
            status = await link.probe("/health")
        return status in (200, *LOCKED)

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        """Say whether the server answers on HTTP and its schedulers have taken a step within hang_timeout.

        A stopped scheduler shows nowhere else: /ping, /ready and /health go on answering 200.  A scheduler stamps
        /v1/loads about every second, asleep too.  A server that muxd has no key for, or no free socket to, counts as
        alive.
        """
        try:
            stamps = stamps_in(await link.ask("/v1/loads"))
        except EngineCallFailed as error:
            return error.lacking or error.locked
        now = trio.current_time()
        step = min(stamps, default=None)
        if step is None or self._last_step is None or step != self._last_step[0]:
            self._last_step = (step or 0.0, now)
        return now - self._last_step[1] < model.engine_options.hang_timeout

    async def find_keys(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        return await observation.find_keys(link, processes)

    async def observe(
        self, link: EngineClient | None, port: int, processes: Sequence[Command]
    ) -> ObservedServer | None:
        return await observation.observe(link, port, processes)

    def is_server(self, process: Command) -> bool:
        return is_server(process.words)

    def servers_among(self, processes: Iterable[Command]) -> list[Command]:
        return observation.servers_among(processes)

    def port_told(self, process: Command) -> int | None:
        return observation.port_told(process)

    def are_parts(self, names: Sequence[str]) -> bool:
        return diagnosis.are_parts(names)

    async def context_length(self, link: EngineClient) -> int | None:
        return await length_of(link)

    async def is_generation(self, link: EngineClient) -> bool | None:
        self._is_generation = None
        with trio.move_on_after(LENGTH_TIMEOUT), suppress(EngineCallFailed):
            answer = await link.ask("/model_info")
            said = answer.get("is_generation") if isinstance(answer, dict) else None
            self._is_generation = said if isinstance(said, bool) else None
            return self._is_generation
        return None

    async def unfitness(self, link: EngineClient, model: Model) -> Diagnosis | None:
        return None

    async def sleep(self, link: EngineClient, model: Model, level: int, released: Sequence[str]) -> list[str]:
        self._weights_path = ""  # it may have been given other weights, or be another server
        if not released:  # else it is paused
            loads = await self._loads_before_call(link)
            await link.call("pause", "/pause_generation", {"mode": "abort"})
            await self._until_idle(link, stamps_in(loads))
        tags = [tag for tag in TAGS[level] if tag not in released]
        await link.call("release", "/release_memory_occupation", {"tags": tags})
        return [*released, *tags]

    async def _until_idle(self, link: EngineClient, before: Stamps) -> None:
        """Wait until no rank runs or queues a request; raise EngineCallFailed after IDLE_TIMEOUT.

        A release kills a busy server, and a closed client connection does not prove the server idle.  Figures from
        `before` the pause prove nothing either: a prefill that has begun since is not in them.
        """
        pause = FIRST_POLL
        with trio.move_on_after(IDLE_TIMEOUT):
            while True:
                loads = await self._loads(link)
                if is_idle(loads) and are_news(stamps_in(loads), before):
                    return
                if len(stamps_in(loads)) != len(before):  # the server had not answered before, or not for all ranks
                    before = stamps_in(loads)
                await trio.sleep(pause)
                pause = min(2 * pause, IDLE_POLL)
        raise EngineCallFailed(f"it was not seen idle within {IDLE_TIMEOUT:.0f} s after the pause")

    async def _loads_before_call(self, link: EngineClient) -> Any:
        """Return the answer of /v1/loads as of when the next call can go out: a rank may stamp others meanwhile."""
        loads, read = await self._loads(link), trio.current_time()
        await link.recorded()
        return loads if trio.current_time() - read < STALE else await self._loads(link)

    async def _loads(self, link: EngineClient) -> Any:
        """Return the answer of /v1/loads, None where none came; raise EngineCallFailed where none ever will."""
        try:
            return await link.ask("/v1/loads")
        except EngineCallFailed as error:
            if error.cause is not None:  # such as no such route: this server will never be seen idle
                raise
            return None

    async def prepare_wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        if _reloads(model, released) and not model.model_path:
            self._weights_path = await observation.weights_path(link)

    async def wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        """Wake the server; weights that were discarded are read again before there is a KV cache beside them.

        To read them takes memory of its own for a while.  SGLang itself empties its cache while that is released.
        """
        kept = list(released)
        if _reloads(model, released):
            path = model.model_path or self._weights_path or await observation.weights_path(link)
            await link.call("resume", "/resume_memory_occupation", {"tags": [WEIGHTS]})
            reload = {"model_path": path, "load_format": "auto", "flush_cache": True}
            await link.call("reload", "/update_weights_from_disk", reload)
            kept.remove(WEIGHTS)
        await link.call("resume", "/resume_memory_occupation", {"tags": kept})
        await link.call("continue", "/continue_generation", {})

    async def is_idle(self, link: EngineClient) -> bool | None:
        loads = await self._loads(link)
        return is_idle(loads) if loads is not None else None

    async def proof(self, link: EngineClient, model: Model) -> ProofAnswer | None:
        """Ask for text, or for a vector where the server says that it makes these: a request for text would kill it.

        Logprobs from the prompt's beginning on keep SGLang from taking the prompt out of its cache.
        """
        if model.half:  # half a server answers nobody but the router
            return None
        is_generation = self._is_generation  # as it said when it was loaded: what it makes, it makes after every wake
        if is_generation is None and (is_generation := await self.is_generation(link)) is None:
            raise EngineCallFailed("proof: the server does not say what it makes", answered=True)
        if not is_generation:
            return vector_in(await link.prove("/encode", {"input_ids": PROMPT}))
        sampling = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True}
        logprobs = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": LIKELIEST}
        return text_in(await link.prove("/generate", {"input_ids": PROMPT, "sampling_params": sampling, **logprobs}))

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        """Return why GPU memory did not come back after a sleep; `over` says how much.

        Without its memory saver SGLang answers every release with 200 and gives nothing up.
        """
        try:
            info = await link.ask("/server_info")
        except EngineCallFailed:
            info = {}
        has_saver = info.get("enable_memory_saver") if isinstance(info, dict) else None
        return diagnosis.of_kept_memory(over, has_saver=has_saver)

    async def metrics(self, link: EngineClient) -> bytes | None:
        return await link.page("/metrics", LONGEST_PAGE)

    def leftovers(self, pids: Iterable[int]) -> list[Path]:
        """Return the files of the server's load figures and semaphores in shared memory."""
        return mapped_files(pids, SHM_FILES)

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        return diagnosis.diagnose(evidence, model)

    def diagnose_answer(self, call: str, status: int, body: str) -> Diagnosis | None:
        return diagnosis.of_answer(call, status, body)

    def diagnose_stranger(self, program: str) -> Diagnosis:
        return of_stranger(program, self.title, "/server_info")


def _reloads(model: Model, released: Sequence[str]) -> bool:
    """Say whether a wake reads the weights again: they were discarded."""
    return WEIGHTS in released and 1 not in SGLANG.levels(model)


def _memory_share(model: Model, free: int) -> list[str]:
    """Hold SGLang to its grant: weights and KV cache are this share of what is free before it loads.

    `free`: bytes, on that of its GPUs which has least; 0 where nobody could read it.  SGLang 0.5.23 sizes its KV cache
    as free * share - weights (srt/mem_cache/kv_cache_configurator.py).
    """
    if model.memory is None or not SGLANG.granted(model) or not free:
        return []
    static = (model.memory.weights + model.memory.kv) // max(1, model.gpus_each)
    return [FRACTION[0], f"{min(0.99, static / free):.4f}"]


def server_flags(model: Model, port: int) -> list[str]:
    """Return the flags that muxd sets itself; the rest of the command line is the user's `args`."""
    flags = ["--model-path", model.model_path, "--served-model-name", model.served_names[0]]
    flags += ["--host", "127.0.0.1", "--port", str(port)]
    if model.sleep_level < 3:
        flags.append("--enable-memory-saver")
    if model.sleep_level == 1:
        flags.append("--enable-weights-cpu-backup")
    flags += [flag for flag in (METRICS, SLEEP_ON_IDLE) if flag not in model.args]
    return flags + _tensor_parallel(model)


def gate_flags(context: LaunchContext) -> Sequence[str]:
    """Return the flags of a server that is started ahead, and waits at a gate; none of any other."""
    return SGLangGate().flags(context.gate_port) if context.gate_port else []


def _tensor_parallel(model: Model) -> list[str]:
    """Return --tp-size over all the model's GPUs, divided by pipelines and replicas; nothing where `args` set it."""
    look_up = flag_of(model.args)
    try:
        others = parallel(look_up)
    except ValueError:  # SGLang will say so
        return []
    gpus = range(others.first, model.gpus_each, others.step)
    size = len(gpus) // others.count
    return ["--tp-size", str(size)] if size > 1 and look_up(TENSOR) is None else []


def text_in(answer: Any) -> ProofAnswer:
    """Return the answer of /generate; raise EngineCallFailed where it is none with logprobs.

    SGLang sends a token as [logprob, id, text], and the likeliest at each position as a list of such.
    """
    try:
        meta = answer["meta_info"]
        said, likeliest = meta["output_token_logprobs"], meta["output_top_logprobs"]
        tokens = [[one, *others] for one, others in zip(said, likeliest, strict=True)]
        prompt = [each[0] for each in meta["input_token_logprobs"][1:]]  # nothing comes before the first token
        return text_answer(prompt, ([(int(token[1]), token[0]) for token in each] for each in tokens))
    except (KeyError, TypeError, ValueError, IndexError):
        raise EngineCallFailed("proof: the answer has no logprobs", answered=True) from None


def vector_in(answer: Any) -> ProofAnswer:
    """Return the answer of /encode; raise EngineCallFailed where it is no vector."""
    vector = answer.get("embedding") if isinstance(answer, dict) else None
    if not isinstance(vector, list):
        raise EngineCallFailed("proof: the answer is no vector", answered=True)
    return vector_answer(vector)


def is_idle(answer: Any) -> bool:
    """Say whether no request runs or waits on any rank, by the answer of /v1/loads; False where it does not tell."""
    loads = answer.get("loads") if isinstance(answer, dict) else None
    if not isinstance(loads, list) or not loads:
        return False
    try:
        return all(load["num_running_reqs"] == 0 and load["num_waiting_reqs"] == 0 for load in loads)
    except (KeyError, TypeError):
        return False


def stamps_in(answer: Any) -> Stamps:
    """Return when each rank last stamped its load figures, by its own clock; () where /v1/loads does not say."""
    loads = answer.get("loads") if isinstance(answer, dict) else None
    stamps = [load.get("timestamp") for load in loads if isinstance(load, dict)] if isinstance(loads, list) else []
    return tuple(float(stamp) for stamp in stamps if isinstance(stamp, int | float))


def are_news(now: Stamps, before: Stamps) -> bool:
    """Say whether all ranks have stamped their figures since `before`; a stopped scheduler leaves its last ones.

    A different stamp is news even if it is an earlier time: the clock may have been set back meanwhile.
    """
    return len(now) == len(before) and all(new != old for new, old in zip(now, before, strict=True))
