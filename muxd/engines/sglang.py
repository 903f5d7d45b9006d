"""SGLang: flags, probes, and its sleep and wake.

What is stated here of SGLang's behaviour was observed on SGLang 0.5.23 (on a CPU).
"""

import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.config.flags import TENSOR, flag_of, parallel
from muxd.observed_scripts import ObservedServer
from muxd.shim.processes import process_table

from . import diagnosis
from .diagnosis import Diagnosis
from .engine import LaunchContext, LaunchSpec
from .engine_client import LOCKED, EngineCallFailed, EngineClient

#: What a deep sleep gives up.  Never an empty list: SGLang reads that as "everything".
TAGS = {"tags": ["kv_cache", "weights"]}

#: A non-streamed request that was aborted can run on for 4 s.
IDLE_TIMEOUT = 15.0
FIRST_POLL, IDLE_POLL = 0.001, 0.05  # seconds between two looks: at first, and at most after doubling

#: Seconds that a server which is ready otherwise is waited for to tell its context length.
LENGTH_TIMEOUT = 1.0

#: Tells /metrics from its own HTTP port.  It costs nothing that could be measured: a start takes the same CPU, an idle
#: server 1.8 % of a core with it and 1.6 % without; what it counts lies in its TMPDIR (600 KB) and outlasts a sleep.
METRICS = "--enable-metrics"

#: Its scheduler waits for requests instead of asking for them all the time.  There is no flag that says the opposite.
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

SHM = Path("/dev/shm")
SHM_FILES = ("sglang_loads_*", "sem.mp-*")
_IN_SHM = re.compile(rb" (\d+) +/dev/shm/")  # the inode, in a line of /proc/PID/maps


#: One for each rank.
Stamps = tuple[float, ...]


class SGLang:
    def __init__(self) -> None:
        self._last_step: tuple[float, float] | None = None  # the oldest rank's stamp in /v1/loads, and when it was new

    def launch(self, model: Model, plan: LaunchContext) -> LaunchSpec:
        config = plan.workdir / "server.yaml"  # SGLang insists on the ending
        argv = [model.python, "-m", "sglang.launch_server", "--config", str(config), *server_flags(model, plan.port)]
        return LaunchSpec(
            argv=(*argv, *model.args),
            env={**ENVIRONMENT, **visible_gpus(model), "TMPDIR": str(plan.tmpdir)},
            files={config: f"admin-api-key: {plan.admin_key}\n"},
            # SIGTERM is looked at every 5 s; SIGINT ends an idle server in 0.5 s.
            stop_signal=signal.SIGINT,
        )

    async def is_ready(self, link: EngineClient) -> bool:
        status = await link.probe("/ready")
        if status == 404:  # before about 0.5.19
            status = await link.probe("/health")
        return status in (200, *LOCKED)

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        """Its HTTP side answers, and its scheduler has taken a step within hang_timeout; as far as muxd may ask and
        has a socket to.

        A stopped scheduler shows nowhere else: /ping, /ready and /health go on answering 200.
        It stamps /v1/loads about every second, asleep too.
        """
        try:
            stamps = stamps_in(await link.ask("/v1/loads"))
        except EngineCallFailed as error:
            return error.lacking or error.locked
        now = trio.current_time()
        step = min(stamps, default=None)
        if step is None or self._last_step is None or step != self._last_step[0]:
            self._last_step = (step or 0.0, now)
        return now - self._last_step[1] < model.hang_timeout

    async def unlock(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        """muxd has given it its keys itself."""
        return None

    async def context_length(self, link: EngineClient) -> int | None:
        with trio.move_on_after(LENGTH_TIMEOUT), suppress(EngineCallFailed):
            return length_in(await link.ask("/v1/models"))
        return None

    async def see(self, link: EngineClient | None, port: int, processes: Sequence[Command]) -> ObservedServer | None:
        """muxd has started it itself."""
        return ObservedServer(port=port)

    async def sleep(self, link: EngineClient, model: Model) -> None:
        loads = await self._loads(link)
        await link.call("pause", "/pause_generation", {"mode": "abort"})
        await self._until_idle(link, stamps_in(loads))
        await link.call("release", "/release_memory_occupation", TAGS)

    async def _until_idle(self, link: EngineClient, before: Stamps) -> None:
        """Releasing a busy server kills it, and a closed client connection does not prove it idle.

        Nor do figures from `before` the pause: a prefill that began since is not in them.
        """
        pause = FIRST_POLL
        with trio.move_on_after(IDLE_TIMEOUT):
            while True:
                loads = await self._loads(link)
                if is_idle(loads) and are_news(stamps_in(loads), before):
                    return
                if len(stamps_in(loads)) != len(before):  # it did not answer before, or not in full
                    before = stamps_in(loads)
                await trio.sleep(pause)
                pause = min(2 * pause, IDLE_POLL)
        raise EngineCallFailed(f"it was not seen idle within {IDLE_TIMEOUT:.0f} s after the pause")

    async def _loads(self, link: EngineClient) -> Any:
        """What it answers to /v1/loads, be it nothing; raises EngineCallFailed where it never will."""
        try:
            return await link.ask("/v1/loads")
        except EngineCallFailed as error:
            if error.cause is not None:  # as where it has no such route: it will never be seen idle
                raise
            return None

    async def wake(self, link: EngineClient, model: Model) -> None:
        path = await self.weights_of(link, model) if model.sleep_level == 2 else ""
        await link.call("resume", "/resume_memory_occupation", TAGS)
        if model.sleep_level == 2:
            reload = {"model_path": path, "load_format": "auto", "flush_cache": True}
            await link.call("reload", "/update_weights_from_disk", reload)
        await link.call("continue", "/continue_generation", {})

    async def weights_of(self, link: EngineClient, model: Model) -> str:
        """What the server was loaded from."""
        return model.model_path

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        """Without its memory saver SGLang answers every release with 200 and gives nothing up."""
        try:
            info = await link.ask("/server_info")
        except EngineCallFailed:
            info = {}
        has_saver = info.get("enable_memory_saver") if isinstance(info, dict) else None
        return diagnosis.of_kept_memory(over, has_saver=has_saver)

    async def metrics(self, link: EngineClient) -> bytes | None:
        return await link.page("/metrics", LONGEST_PAGE)

    def leftovers(self, pid: int) -> list[Path]:
        """Its load figures and semaphores in shared memory.

        Their names are random, and a semaphore is mapped under a name that it loses at
        once: they are told by the inodes that its processes have mapped.
        """
        mapped: set[int] = set()
        for process in self.processes_of(pid):
            with suppress(OSError):  # it ended, or is another user's
                mapped |= {int(inode) for inode in _IN_SHM.findall(Path(f"/proc/{process}/maps").read_bytes())}
        return [path for pattern in SHM_FILES for path in sorted(SHM.glob(pattern)) if _inode(path) in mapped]

    def processes_of(self, pid: int) -> list[int]:
        """SGLang keeps all its processes in one session."""
        return [process.pid for process in process_table().values() if process.session == pid]


def visible_gpus(model: Model) -> dict[str, str]:
    """Only the model's GPUs, counted as NVML counts them."""
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(model.cuda_devices or map(str, model.gpus)),
    }


def server_flags(model: Model, port: int) -> list[str]:
    """The flags that muxd owns; the rest of the command line is the user's `args`."""
    flags = ["--model-path", model.model_path, "--served-model-name", model.served_names[0]]
    flags += ["--host", "127.0.0.1", "--port", str(port)]
    if model.sleep_level < 3:
        flags.append("--enable-memory-saver")
    if model.sleep_level == 1:
        flags.append("--enable-weights-cpu-backup")
    flags += [flag for flag in (METRICS, SLEEP_ON_IDLE) if flag not in model.args]
    return flags + _tensor_parallel(model)


def _tensor_parallel(model: Model) -> list[str]:
    """Over all its GPUs, where `args` do not say it: what pipelines and replicas leave to each."""
    look_up = flag_of(model.args)
    try:
        others = parallel(look_up)
    except ValueError:  # SGLang will say so
        return []
    gpus = range(others.first, len(model.cuda_devices or model.gpus), others.step)
    size = len(gpus) // others.count
    return ["--tp-size", str(size)] if size > 1 and look_up(TENSOR) is None else []


def is_idle(answer: Any) -> bool:
    """Nothing runs and nothing waits on any rank, by the answer of /v1/loads; one that does not say proves nothing."""
    loads = answer.get("loads") if isinstance(answer, dict) else None
    if not isinstance(loads, list) or not loads:
        return False
    try:
        return all(load["num_running_reqs"] == 0 and load["num_waiting_reqs"] == 0 for load in loads)
    except (KeyError, TypeError):
        return False


def length_in(answer: Any) -> int | None:
    """The context length of the first model in /v1/models; adapters come after it."""
    cards = answer.get("data") if isinstance(answer, dict) else None
    length = cards[0].get("max_model_len") if isinstance(cards, list) and cards and isinstance(cards[0], dict) else None
    return length if type(length) is int and 0 < length < 1 << 40 else None


def stamps_in(answer: Any) -> Stamps:
    """When each rank last stamped its load figures, by its own clock; empty where /v1/loads does not say."""
    loads = answer.get("loads") if isinstance(answer, dict) else None
    stamps = [load.get("timestamp") for load in loads if isinstance(load, dict)] if isinstance(loads, list) else []
    return tuple(float(stamp) for stamp in stamps if isinstance(stamp, int | float))


def are_news(now: Stamps, before: Stamps) -> bool:
    """All ranks have stamped their figures since; a scheduler that is stopped leaves its last ones behind.

    Another stamp is news, be it an earlier time: the clock may have been set back meanwhile.
    """
    return len(now) == len(before) and all(new != old for new, old in zip(now, before, strict=True))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
