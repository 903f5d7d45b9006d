"""vLLM: flags, probes, and its sleep and wake.

What is stated here of vLLM's behaviour was observed on vLLM 0.32.0 (on a CPU, with a sleep mode of the tests' own).
"""

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import floor
from pathlib import Path
from secrets import token_hex
from typing import Any

import trio

from muxd.config.command_lines import Command
from muxd.config.flags import flag_of
from muxd.config.model_schema import Model
from muxd.engines import diagnosis as general
from muxd.engines.diagnosis import Diagnosis, Evidence, quote
from muxd.engines.engine import CommandSpec, LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.observed_server import ObservedServer
from muxd.engines.openai_api import LENGTH_TIMEOUT, length_of
from muxd.engines.shared_memory import mapped_files
from muxd.engines.wake_proof import ANSWER_TOKENS, LIKELIEST, PROMPT, ProofAnswer, text_answer, vector_answer
from muxd.errors import EngineTooOld

from . import diagnosis, guard
from .installation import (
    GPU_SHARE,
    KV_CACHE_BYTES,
    MIDDLEWARE,
    NO_ERROR_STACK,
    RELEASE_HOST_MEMORY,
    SHUTDOWN_TIMEOUT,
    broken_sleep,
    lacking_for,
)
from .key_checks import API_KEY, DATA, PIPELINE, TENSOR
from .kind import VLLM_KIND, makes, own_args

#: vLLM's server as a module: the program `vllm` needs metadata that builds under another name lack.
MODULE = "vllm.entrypoints.openai.api_server"

SHM_FILES = ("psm_*", "sem.mp-*")

#: The guard's module in a launch's work folder.
GUARD = "muxd_guard"

#: Seconds that a server which is told to end may go on with what is in flight; muxd has drained it before.
DRAIN_SECONDS = 30

# How many requests run, and how many wait, by engine.
_REQUESTS = re.compile(rb"^vllm:num_requests_(?:running|waiting)(?:\{[^}\n]*\})? ([0-9.e+]+)$", re.MULTILINE)

#: Bytes of /metrics; 60 KB are usual.
LONGEST_PAGE = 8 << 20

#: What a sleep releases: the KV cache at every level, the weights at level 1 and 2.
KV_CACHE, OFFLOADED, DISCARDED = "kv_cache", "weights, kept in host memory", "weights, discarded"
RELEASED = {0: (KV_CACHE,), 1: (KV_CACHE, OFFLOADED), 2: (KV_CACHE, DISCARDED)}


class VLLM:
    """vLLM started by muxd itself, and the last sign of life of one server's engine core."""

    title = "vLLM"
    stop_signal = signal.SIGTERM
    is_deaf_while_loading = True  # it goes on and turns healthy, or hangs
    is_silent = False
    runs_elsewhere = False
    bootstrap_port = 0
    notice = ""
    tells_by_log = False
    gate = None
    environment: Mapping[str, str] = {
        "VLLM_SERVER_DEV_MODE": "1",  # opens the routes for sleep and wake; `guard` keeps them to muxd
        "VLLM_NO_USAGE_STATS": "1",
        API_KEY: "",  # vLLM takes "" for none; muxd's own environment may have one
    }

    def __init__(self) -> None:
        self._answered: float | None = None  # when the engine core last did, by trio's clock
        self._is_generation: bool | None = None  # as the server's routes last said

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        folder, python = context.workdir, model.engine_options.python
        lacks = lacking_for(model)
        flags = [*server_flags(model, context.port, lacks), *_memory_share(model, context.gpu_size), *own_args(model)]
        return CommandSpec(
            argv=(python, "-m", MODULE, *flags),
            env=_given_back(model, lacks),
            files={
                folder / f"{GUARD}.py": Path(guard.__file__).read_text(),
                folder / guard.KEY_FILE: context.admin_key,
            },
            modules=folder,
        )

    async def is_ready(self, link: EngineClient) -> bool:
        return await link.probe("/health") == 200

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        """Say whether the server answers on HTTP and its engine core has answered within hang_timeout.

        /health goes on answering 200 while an engine core is stopped; whether it sleeps only the core itself can say,
        asleep too, between two steps.
        """
        if await link.probe("/health") != 200:
            return False
        now = trio.current_time()
        try:
            await link.ask("/is_sleeping")
            self._answered = now
        except EngineCallFailed as error:
            if error.lacking or error.locked:
                return True
            self._answered = now if self._answered is None else self._answered
        return now - self._answered < model.engine_options.hang_timeout

    async def find_keys(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        """Return None: muxd itself has given the server its key."""
        return None

    async def observe(
        self, link: EngineClient | None, port: int, processes: Sequence[Command]
    ) -> ObservedServer | None:
        """Return an ObservedServer with nothing but the port: muxd itself has started the server."""
        return ObservedServer(port=port)

    def is_server(self, process: Command) -> bool:
        return MODULE in process.words

    def servers_among(self, processes: Iterable[Command]) -> list[Command]:
        return [process for process in processes if self.is_server(process)]

    def port_told(self, process: Command) -> int | None:
        words = list(process.words)
        told = words[words.index("--port") + 1] if "--port" in words[:-1] else ""
        return int(told) if told.isdigit() else None

    def are_parts(self, names: Sequence[str]) -> bool:
        return diagnosis.are_parts(names)

    async def context_length(self, link: EngineClient) -> int | None:
        return await length_of(link)

    async def is_generation(self, link: EngineClient) -> bool | None:
        """Say what the server makes by the routes that it has: vLLM registers those of its model's tasks alone.

        A GET of a route that takes POST is answered with 405, and of one that it has not with 404.
        """
        with trio.move_on_after(LENGTH_TIMEOUT):
            has = {route: await link.probe(route) for route in ("/v1/completions", "/pooling")}
            answers = {(405, 404): True, (404, 405): False}
            self._is_generation = answers.get((has["/v1/completions"] or 0, has["/pooling"] or 0))
        return self._is_generation

    async def unfitness(self, link: EngineClient, model: Model) -> Diagnosis | None:
        """Return why this version is of no use to a model that is to sleep; one that does not say is believed."""
        if model.sleep_level >= 3:  # from level 0 a model goes deeper, where others need its room
            return None
        with suppress(EngineCallFailed):
            answer = await link.ask("/version")
            said = answer.get("version") if isinstance(answer, dict) else None
            if isinstance(said, str) and (why := broken_sleep(quote(said))):
                message, _, remedy = why.partition("; ")
                return Diagnosis(EngineTooOld.code, message, remedy, refused=True)
        return None

    async def sleep(self, link: EngineClient, model: Model, level: int, released: Sequence[str]) -> list[str]:
        """Put the server to sleep; mode "wait" lets what runs end, where "abort", vLLM's default, would cut it off.

        vLLM's own level 0 pauses and frees nothing: the KV cache is released by a call of its own.  A server whose
        weights sleep takes a second sleep for the first, and is not asked for one.
        """
        if OFFLOADED in released or DISCARDED in released:
            raise EngineCallFailed(f"vLLM does not go from a sleep without its weights to level {level}")
        await link.call("sleep", f"/sleep?level={level}&mode=wait", {})
        if level == 0:
            await link.call("release", "/release_kv_cache_memory", {})
        return list(RELEASED[level])

    async def prepare_wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        pass

    async def wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        """Wake the server; weights that were discarded are read again before there is a KV cache beside them.

        vLLM answers 200 to a wake that did nothing, so the server is asked whether it still sleeps.
        """
        if DISCARDED in released:
            await link.call("resume", "/wake_up?tags=weights", {})
            await link.call("reload", "/collective_rpc", {"method": "reload_weights"})
            await link.call("resume", "/wake_up?tags=kv_cache", {})
            await link.call("reset", "/reset_prefix_cache", {})
        else:
            await link.call("resume", "/wake_up" if OFFLOADED in released else "/wake_up?tags=kv_cache", {})
        if is_sleeping(await link.ask("/is_sleeping")):
            raise EngineCallFailed("it still sleeps after its wake")

    async def is_idle(self, link: EngineClient) -> bool | None:
        page = await link.page("/metrics", LONGEST_PAGE)
        counts = [float(count) for count in _REQUESTS.findall(page)] if page is not None else []
        return not any(counts) if counts else None

    async def proof(self, link: EngineClient, model: Model) -> ProofAnswer | None:
        """Ask for text, or where the model is run for vectors, for one; a prompt's logprobs keep vLLM off its cache."""
        name = model.served_names[0]
        if makes(model) == "embeddings" or self._is_generation is False:
            question = {"model": name, "input": PROMPT, "cache_salt": token_hex(8)}
            return vector_in(await link.prove("/v1/embeddings", question))
        sampling = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
        logprobs = {"logprobs": LIKELIEST, "prompt_logprobs": 0, "return_tokens_as_token_ids": True}
        return text_in(await link.prove("/v1/completions", {"model": name, "prompt": PROMPT, **sampling, **logprobs}))

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        return diagnosis.of_kept_memory(over)

    async def metrics(self, link: EngineClient) -> bytes | None:
        return await link.page("/metrics", LONGEST_PAGE)

    def leftovers(self, pids: Iterable[int]) -> list[Path]:
        """Return the files of the server's message queues and semaphores in shared memory."""
        return mapped_files(pids, SHM_FILES)

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        return diagnosis.diagnose(evidence, model)

    def diagnose_answer(self, call: str, status: int, body: str) -> Diagnosis | None:
        return diagnosis.of_answer(call, status, body)

    def diagnose_stranger(self, program: str) -> Diagnosis:
        return general.of_stranger(program, self.title, "/is_sleeping")


def server_flags(model: Model, port: int, lacks: frozenset[str] = frozenset()) -> list[str]:
    """Return the flags that muxd sets itself; `lacks`: features that this vLLM does not have.

    The user's `args` come behind them.  vLLM refuses a request by a name that it does not know, so it is told them all.
    """
    names = dict.fromkeys((*model.served_names, model.name))
    flags = ["--model", model.model_path, "--served-model-name", *names]
    flags += ["--host", "127.0.0.1", "--port", str(port), MIDDLEWARE, f"{GUARD}.RequireAdminKey"]
    flags += [SHUTDOWN_TIMEOUT, str(DRAIN_SECONDS)] if SHUTDOWN_TIMEOUT not in lacks else []
    # VLLM_SERVER_DEV_MODE turns on a traceback for each error that a client gets: causes would drown in the log.
    flags += [NO_ERROR_STACK] if NO_ERROR_STACK not in lacks else []
    flags += ["--enable-sleep-mode"] if model.sleep_level < 3 else []
    return flags + _tensor_parallel(model)


def _given_back(model: Model, lacks: frozenset[str]) -> dict[str, str]:
    """Return the variable by which pinned host memory of a sleep at level 1 does not stay taken after the wake."""
    return {RELEASE_HOST_MEMORY: "1"} if model.sleep_level == 1 and RELEASE_HOST_MEMORY not in lacks else {}


def _memory_share(model: Model, gpu_size: int) -> list[str]:
    """Hold vLLM to its grant: the bytes of its KV cache on each GPU, where `memory` has them.

    `gpu_size`: bytes of the smallest of its GPUs; 0 where nobody could read it.  A KV cache of a given size is made
    whatever the share of the GPU is, but vLLM does not start where less than that share is free: 0.92 of a GPU on which
    others are awake.  It looks when its CUDA context is there already, which `overhead` is for.
    """
    if model.memory is None or not VLLM_KIND.granted(model):
        return []
    gpus = max(1, model.gpus_each)
    flags = [KV_CACHE_BYTES, str(model.memory.kv // gpus)]
    if gpu_size:
        share = (model.memory.weights + model.memory.kv) // gpus / gpu_size
        flags += [GPU_SHARE[0], f"{max(0.0001, floor(min(1.0, share) * 10_000) / 10_000):.4f}"]
    return flags


def _tensor_parallel(model: Model) -> list[str]:
    """Return --tensor-parallel-size over all the model's GPUs, unless `args` say how they are used."""
    said = flag_of(own_args(model))
    is_said = any(said(names) is not None for names in (TENSOR, PIPELINE, DATA))
    return ["--tensor-parallel-size", str(len(model.gpus))] if len(model.gpus) > 1 and not is_said else []


def text_in(answer: Any) -> ProofAnswer:
    """Return the answer of /v1/completions; raise EngineCallFailed where it is none with logprobs.

    vLLM calls a token "token_id:31" among the answer's, and "31" among the prompt's.
    """
    try:
        choice = answer["choices"][0]
        said = choice["logprobs"]
        tokens = [
            [(token, logprob), *likeliest.items()]
            for token, logprob, likeliest in zip(
                said["tokens"], said["token_logprobs"], said["top_logprobs"], strict=True
            )
        ]
        heard = zip(PROMPT[1:], choice["prompt_logprobs"][1:], strict=True)  # nothing comes before the first token
        prompt = [each[str(token)]["logprob"] for token, each in heard]
        return text_answer(prompt, ([(int(token.partition(":")[2]), p) for token, p in each] for each in tokens))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise EngineCallFailed("proof: the answer has no logprobs", answered=True) from None


def vector_in(answer: Any) -> ProofAnswer:
    """Return the answer of /v1/embeddings; raise EngineCallFailed where it is no vector."""
    try:
        return vector_answer(answer["data"][0]["embedding"])
    except (KeyError, TypeError, IndexError):
        raise EngineCallFailed("proof: the answer is no vector", answered=True) from None


def is_sleeping(answer: Any) -> bool:
    """Say whether any of its memory sleeps, or its scheduler is paused, by the answer of /is_sleeping."""
    return not isinstance(answer, dict) or answer.get("is_sleeping") is not False
