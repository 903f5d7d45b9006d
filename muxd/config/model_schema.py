"""A model's table as frozen values; each key that all models have is declared here, once.

Times are in seconds, sizes in bytes; `inf` means no limit.  The keys of single engines are in `engine_options`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .declarations import KeyDeclaration, key, keys_of
from .engine_options import DEFAULT_ENGINE, ENGINE_OPTIONS, OPTION_KEYS, EngineOptions, SGLangOptions
from .half_options import HalfOptions
from .readers import (
    boolean,
    choice,
    directory,
    duration,
    environment,
    eviction_rule,
    gpu_names,
    integer,
    ladder,
    launch_script,
    names,
    params,
    size,
    stripped,
    text,
    texts,
    weights,
)
from .router_options import RouterOptions
from .scaling_options import ScalingOptions


@dataclass(frozen=True, slots=True)
class Memory:
    """GPU memory that a model holds while it is awake, in bytes over all its GPUs together."""

    weights: int = key(size(), 0, doc="the weights, as they are loaded")
    kv: int = key(size(), 0, doc="the KV cache")
    overhead: int = key(size(), 0, doc="all else: CUDA contexts, graphs, activations")

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead


@dataclass(frozen=True, slots=True)
class DeclaredServer:
    """Properties of a server as the model's table and the text of its launch script declare them, before it has run."""

    names: tuple[str, ...] = ()
    names_by: str = ""  # source of `names`: "table"; "contract", the variable MODEL_NAME; "flag"; "": nowhere
    names_from: str = ""  # the place of `names`, for messages
    port: int = 0  # 0: found once the server listens
    port_from: str = ""  # the place of `port`, for messages
    gpus: tuple[str, ...] = ()  # ids of those in the table; none: the table has no gpus
    every: tuple[str, ...] = ("0",)  # ids of all GPUs that muxd was given
    there: tuple[str, ...] = ()  # ids of all GPUs of this machine; none: nobody tells
    sleep_level: int = 3
    level_by_table: bool = False  # whether sleep_level is the table's, not the script's
    args: tuple[str, ...] = ()  # those in flags.CAPABILITY_FLAGS


@dataclass(frozen=True, slots=True)
class Script:
    """A launch script that starts a server.

    muxd/importers reads the text of the script; muxd/launchers/observed_scripts keeps what was seen of its process.
    """

    argv: tuple[str, ...]  # bash, the script and its arguments
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of the script's text, by path
    digest: str = ""  # SHA-256 over `digests`, the script's arguments, `env` and muxd's CUDA_VISIBLE_DEVICES
    launch: str = ""  # FILE:LINE of the command that starts the server
    asks_key: str = ""  # FILE:LINE of the command, where that gives the server an --api-key
    program: str = ""  # the program of that command, as far as it is known
    env: dict[str, str] = field(default_factory=dict)  # variables that muxd sets for the script
    said: DeclaredServer = DeclaredServer()
    joint: bool = False  # one of `muxd start`'s scripts, which share all their GPUs: one of them is awake at a time
    is_seen: bool = False  # whether the server's process was seen in an earlier launch
    knows_gpus: bool = False  # else its model claims every GPU, and is awake alone
    contradictions: tuple[str, ...] = ()  # between what was declared and what was seen
    remarks: tuple[str, ...] = field(default=(), compare=False)  # for the operator, about the script


def _is_same_first(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    return old[:1] == new[:1]


@dataclass(frozen=True, slots=True)
class Model:
    """One `[models.NAME]` table."""

    name: str
    script: Script | None = key(
        launch_script,
        unset=None,
        example="launch/legacy.sh",
        doc="A launch script that starts the server itself, in place of model_path, python and args: sglangmux's, with "
        "MODEL_NAME= and PORT=, or with --model-path and --port.  What is written plainly there is read before it "
        "runs; its port, names, sleep level, GPUs and keys are seen at the process that it starts, and kept for the "
        "next time.  Until a script has been seen once it claims every GPU, unless gpus is here.  What is said here "
        "goes before it for clients; gpus and port are given to it as CUDA_VISIBLE_DEVICES and PORT, and where its "
        "server uses others all the same, that is told and booked.  It runs in this file's directory, unless there is "
        "a cwd.  What it takes as $1, $2 ... is written so:\n"
        '  script = { file = "launch/legacy.sh", args = ["Qwen/Qwen3-14B", "30001"] }\n'
        "muxd adds no flag to what a script says: --enable-metrics and --sleep-on-idle are in its own command line, "
        "or not.",
    )
    engine: str = key(
        choice(*ENGINE_OPTIONS),
        DEFAULT_ENGINE,
        doc='"sglang", "vllm", "openai" for any server of that API, which a command of yours starts, or "simulator": '
        "pretend servers, to try muxd without a GPU.",
    )
    model_path: str = key(
        weights,
        unset="",
        example="Qwen/Qwen3-14B",
        doc='A Hub id, or a local directory (one that begins with "/", "./", "../" or "~").',
    )
    served_names: tuple[str, ...] = key(
        names,
        unset=(),
        example=["qwen", "Qwen/Qwen3-14B"],
        live=_is_same_first,  # only the first is passed to the engine
        told=True,
        doc='What clients write into "model".  Default: the table\'s name.',
    )
    any_name: bool = key(
        boolean,
        False,
        live=True,
        told=True,
        doc="Requests for a name that no model has are for this one, and the name goes to its server as it is.",
    )
    gpus: tuple[str, ...] = key(  # ids: a card's index as NVML counts, a MIG slice's UUID; CUDA takes them so
        gpu_names,
        [0],
        doc="The GPUs the model runs on: numbers as nvidia-smi counts them, or what `nvidia-smi -L` calls them, as in "
        '["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"] or ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"]; the '
        "beginning of a UUID is enough, and a MIG slice is a GPU of its own.  Default: as many as args need (--tp and "
        "the like), the first of those that CUDA_VISIBLE_DEVICES names where muxd is started, else from 0 on.  A "
        "launch script says it itself, and must be helped here where that cannot be read.\n"
        '"auto": any one GPU, chosen whenever the model is started, and "auto:2" any two; of replicas, for each.',
    )
    memory: Memory | None = key(
        Memory,
        unset=None,
        example={"weights": "28GiB", "kv": "10GiB", "overhead": "2GiB"},
        doc="What it takes while awake, on all its GPUs together.  With a size for kv it is held to that (SGLang is "
        "told --mem-fraction-static, unless args say one), and is awake beside others that fit on the same GPUs with "
        "it.  Without, it has its GPUs to itself, and so much is waited for before it is loaded.  What is left out "
        "counts as 0.",
    )
    sleep_level: int = key(
        integer(0, 3),
        2,
        doc="What the model gives up while another one has the GPU; more where the other one needs it:\n"
        "  0  its KV cache alone: back at once, but its weights stay on the GPU, so give sizes in `memory`\n"
        "  1  its weights wait in host RAM: back within seconds, but the RAM stays taken\n"
        "  2  its weights are discarded: read from disk again\n"
        "  3  its process ends: started again from nothing",
    )
    wake_proof: bool = key(
        boolean,
        True,
        live=True,
        doc="After each wake it must answer one short question as when it was loaded, or it is started from nothing; "
        "see docs/explanation/wake-proof.md.",
    )
    replicas: int = key(
        integer(1, 64),
        1,
        doc="So many workers serve the model side by side, behind a router, or at first; each has its own part of "
        "gpus, which names as many times the GPUs that one needs, and takes what memory says.  They are woken, put to "
        "sleep and ordered together, and a worker that dies comes back beside the others.  `muxctl logs NAME/0` shows "
        "one of them.  GPUs may be named again for several replicas on one: [0, 0, 1, 1], with sizes in memory.",
    )
    placement: str = key(
        choice("spread", "packed"),
        "spread",
        live=True,
        doc='Where replicas with gpus = "auto" come to, of GPUs that nobody has to leave for them: spread over those '
        "that have fewest of them and most room, or packed onto as few as hold them by the sizes in memory, which "
        "leaves whole GPUs to other models.",
    )
    max_replicas: int = key(
        integer(1, 64),
        unset=0,
        example=1,
        doc="As many there are at most: gpus names the GPUs of all of them.  With this, or min_replicas, so many serve "
        "as the load asks for, beginning with replicas; `muxctl scale NAME N` orders it.  A further one comes only "
        "where its GPUs have room, and one that goes sleeps like a model, at sleep_level.  Default: replicas.",
    )
    min_replicas: int | None = key(
        integer(0, 64),
        unset=None,
        example=1,
        live=True,
        doc="As many there are at least while the model is on its GPUs; 0: with nothing to do it leaves them, and the "
        "next request waits and brings it back.  Default: replicas.",
    )
    scaling: ScalingOptions | None = key(
        ScalingOptions,
        unset=None,
        example={"load": 8, "queue_wait": "5s", "up_after": "3s", "down_after": "2min"},
        live=True,
        doc="When there are more, and when fewer: so many requests that run or wait for each, or a request that waits "
        "for so long; either must hold for up_after, and a load for which fewer would do, for down_after.",
    )
    router: RouterOptions | None = key(
        RouterOptions,
        unset=None,
        example={"policy": "cache_aware"},
        doc="The router before several replicas: sglang-router, which muxd starts and tells its workers.  Simulated "
        "workers have a stand-in without this table.",
    )
    preload: bool = key(boolean, False, live=True, doc="Load it when muxd starts, instead of on the first request.")
    prefetch: bool = key(
        boolean,
        True,
        live=True,
        doc="While it is next in line and another model still has its GPUs, its weight files are read into free host "
        "RAM, so that its load does not wait for the disk.  For a model_path that is on this machine, and where the "
        "weights are not in RAM anyway, as at sleep level 1.",
    )
    standby: bool = key(
        boolean,
        False,
        live=True,
        doc="Of a model of sleep_level 3: while it is not loaded, its next process waits for it to be wanted, with its "
        "modules imported, so that a start takes only what comes after that.  Meanwhile the process takes host RAM, "
        "and on a GPU a CUDA context.  For an SGLang that has --gated-launch-port, with one worker on GPUs that are "
        "named, and without a size for kv in memory.",
    )
    pinned: bool = key(
        boolean,
        False,
        live=True,
        doc="Once it is loaded, it leaves its GPUs for no other model, only for an operator's order.  A request for a "
        "model that does not fit beside it is refused at once.",
    )
    idle_timeout: float = key(
        duration(1),
        unset=0.0,
        example="10min",
        live=True,
        doc="So long without a request, and it sleeps at its sleep_level, whether or not another model wants its "
        "GPUs.  Probes and scrapes are no requests.  Default: it stays.",
    )
    idle: tuple[tuple[float, int], ...] = key(
        ladder,
        unset=(),
        example=["5min -> 0", "10min -> 1", "1h -> 3"],
        live=True,
        doc="The same in steps, each later and deeper: sleep levels after so long without a request.  A pinned model, "
        "one that an operator holds and the default_model do not go down them.",
    )
    evict: float = key(
        eviction_rule,
        "always",
        live=True,
        doc='When it may be sent away for another model: "always", or "never within 15min of use", and until then who '
        "does not fit beside it gets a 503 with the reason instead of a place in the queue.  An operator's switch goes "
        "before that.",
    )
    priority: int = key(
        integer(-10, 10),
        0,
        live=True,
        doc="From -10 to 10: a request that waits for it counts as 2 to the power of this, and so does what it costs "
        "to send it away.",
    )
    port: int = key(
        integer(0, 65535), 0, doc="The worker's port on loopback; 0: muxd chooses a free one at each start."
    )
    args: tuple[str, ...] = key(
        texts,
        [],
        doc="Further flags of the engine, passed on unchanged.  muxd itself gives --enable-metrics, and "
        "--sleep-on-idle: without that an idle or sleeping SGLang keeps most of a core busy.",
    )
    env: dict[str, str] = key(
        environment,
        {},
        doc="Further environment variables.  A model's own table adds to the one in [defaults].",
    )
    cwd: Path | None = key(
        directory,
        unset=None,
        example="/srv/models",
        doc="The worker's working directory.  Default: one that muxd makes for it.",
    )
    start_timeout: float = key(duration(1, endless=True), "10min", live=True, doc="How long it may take to get ready.")
    stop_timeout: float = key(
        duration(0.1), "30s", live=True, doc="How long it may take to end after SIGTERM; then it gets SIGKILL."
    )
    drain_timeout: float = key(
        duration(endless=True), "5min", live=True, doc="How long it may finish its requests before a switch."
    )
    switch_timeout: float = key(
        duration(0.1, endless=True),
        "10min",
        live=True,
        told=True,
        doc="How long a request may wait for this model; then it gets a 503.  A busy model gives way before that: "
        "set it to about twenty times what a switch takes, where that is more.",
    )
    call_timeout: float = key(
        duration(0.1),
        "2min",
        live=True,
        doc="How long one call to the engine (release, resume, reload) may take; then the worker is killed.",
    )
    gpu_release_timeout: float = key(
        duration(0.1),
        "30s",
        live=True,
        doc="How long its GPU memory may take to be free again after it slept or ended.",
    )
    restart_limit: int = key(
        integer(1, 1000),
        5,
        live=True,
        doc='This many failures within restart_window, and the model is "failed".',
    )
    restart_window: float = key(
        duration(1, endless=True), "10min", live=True, doc="How long a failure counts for restart_limit."
    )
    cool_down: float = key(
        duration(1, endless=True),
        "1min",
        live=True,
        doc='How long it stays "failed"; then a request tries it once more.',
    )
    stable_after: float = key(
        duration(), "1min", live=True, doc="Ready for this long, and earlier failures are forgotten."
    )
    probe_interval: float = key(duration(0.1), "5s", live=True, doc="How often a worker is asked whether it lives.")
    probe_timeout: float = key(duration(0.1), "5s", live=True, doc="How long it may take to answer that.")
    probe_failures: int = key(
        integer(1, 1000),
        3,
        live=True,
        doc="So many times in a row it may fail to; then it counts as unresponsive, and is killed.",
    )
    concurrency_limit: int = key(
        integer(0, 1_000_000),
        0,
        live=True,
        doc="So many requests its worker gets at once, and the others wait in the proxy; 0: no limit.",
    )
    queue_limit: int = key(
        integer(0, 1_000_000),
        10_000,
        live=True,
        told=True,
        doc="So many requests may wait in the proxy, for that and for the model's turn together; further ones get 429.",
    )
    upstream_name: str = key(
        text,
        unset="",
        example="Qwen/Qwen3-14B",
        live=True,
        told=True,
        doc="What the model's server must be asked for, where it is not what clients say.  Default: the name as the "
        "client wrote it.",
    )
    set_params: dict[str, Any] = key(
        params,
        {},
        live=True,
        told=True,
        doc="Top-level fields of a request that are set for everybody, as in { temperature = 0.2 }.",
    )
    strip_params: tuple[str, ...] = key(
        stripped, [], live=True, told=True, doc="Top-level fields of a request that are taken out."
    )
    join_output: bool = key(
        boolean,
        False,
        doc="Its stdout and stderr go to one file, NAME.stdout.log, as to a terminal: their lines are in the order in "
        "which they were written, but nobody can tell them apart.",
    )
    log_max_bytes: int = key(size(low=64 * 1024), "64MiB", doc="Each log file is rotated at this size.")
    log_backups: int = key(integer(0, 1000), 3, doc="So many old log files are kept.")
    prefill: HalfOptions | None = None  # of a model whose workers only prefill, or only decode; each None or neither
    decode: HalfOptions | None = None
    half: str = ""  # of a worker: "prefill" or "decode"; "": it serves requests whole
    any_gpus: int = 0  # so many of `gpus` will do, which the core chooses; 0: all of them are meant
    engine_options: EngineOptions = field(default_factory=SGLangOptions)  # those of `engine`

    @property
    def gpus_each(self) -> int:
        """Return the number of GPUs that each of its replicas runs on."""
        return self.any_gpus or len(self.gpus) // self.most_replicas

    @property
    def most_replicas(self) -> int:
        """Return how many servers there can be at most."""
        if self.prefill is not None and self.decode is not None:
            return self.prefill.replicas + self.decode.replicas
        return max(self.replicas, self.max_replicas)

    @property
    def is_scaled(self) -> bool:
        """Say whether the load decides how many replicas serve."""
        return self.max_replicas > 0 or self.min_replicas is not None


#: The keys of `[models.NAME]` and `[defaults]`: those of every model, and those of its engine.
MODEL_KEYS: dict[str, KeyDeclaration] = {**keys_of(Model), **OPTION_KEYS}
