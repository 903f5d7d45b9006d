"""The configuration as frozen values: every key, its unit and its default.

Times are in seconds, sizes in bytes; `inf` means no limit.  `load` reads the values from TOML and checks them.
"""

from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

GiB = 1 << 30
MiB = 1 << 20

LOG_LEVELS = ("debug", "info", "warning", "error")
ACCESS_LOGS = ("text", "json", "off")
REQUEST_ID_HEADERS = ("x-request-id", "x-correlation-id", "x-trace-id", "request-id")


@dataclass(frozen=True, slots=True)
class Memory:
    """GPU memory that a model holds while it is awake, in bytes over all its GPUs together."""

    weights: int = 0
    kv: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead


@dataclass(frozen=True, slots=True)
class Simulation:
    """Behaviour of a simulated worker (`engine = "simulator"`): its figures are invented, its processes are real."""

    load_time: float = 1.0  # seconds from exec to ready
    sleep_time: float = 0.1
    wake_time: float = 0.3
    release_lag: float = 0.0  # seconds from the engine's answer to a release until the GPU memory is really free
    token_rate: float = 100.0  # tokens per second in one request
    batch_slots: int = 8  # requests that run at once; further requests wait inside the engine
    pace: float = 0.1  # factor on SGLang's own waits, such as the 5 s until it notices SIGTERM; 1: as long as real
    faults: tuple[str, ...] = ()  # see muxd/simulator/faults.py


@dataclass(frozen=True, slots=True)
class DeclaredServer:
    """Properties of a server as the model's table and the text of its launch script declare them, before it has run."""

    names: tuple[str, ...] = ()
    names_by: str = ""  # source of `names`: "table"; "contract", the variable MODEL_NAME; "flag"; "": nowhere
    names_from: str = ""  # the place of `names`, for messages
    port: int = 0  # 0: found once the server listens
    port_from: str = ""  # the place of `port`, for messages
    gpus: tuple[int, ...] = ()  # those in the table; none: the table has no gpus
    every: tuple[int, ...] = (0,)  # all GPUs of this machine
    sleep_level: int = 3
    level_by_table: bool = False  # whether sleep_level is the table's, not the script's
    args: tuple[str, ...] = ()  # those in proxy_settings.CAPABILITY_FLAGS


@dataclass(frozen=True, slots=True)
class Script:
    """A launch script that starts a server.

    muxd/importers reads the text of the script; muxd/launchers/observed_scripts keeps what was seen of its process.
    """

    argv: tuple[str, ...]  # bash, the script and its arguments
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of the script and files that it reads in, by path
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


@dataclass(frozen=True, slots=True)
class Model:
    """One `[models.NAME]` table."""

    name: str
    script: Script | None = None  # launch script, which starts the server in place of muxd's own command line
    engine: str = "sglang"  # or "simulator"
    model_path: str = ""
    served_names: tuple[str, ...] = ()  # names by which clients may ask for it; its own name where none is given
    gpus: tuple[int, ...] = (0,)
    memory: Memory | None = None
    sleep_level: int = 2  # 1 weights to host RAM, 2 weights discarded, 3 the process ends
    preload: bool = False
    port: int = 0  # 0: muxd chooses a free port at each start; a script's port is found once its server listens
    python: str = "python3"  # the interpreter that has SGLang
    args: tuple[str, ...] = ()  # further flags of the engine, unchanged; for a script, its capability flags alone
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    start_timeout: float = 600.0
    stop_timeout: float = 30.0
    drain_timeout: float = 300.0
    switch_timeout: float = 600.0
    call_timeout: float = 120.0  # one engine call: release, resume, reload
    gpu_release_timeout: float = 30.0  # from an answered release, or an exit, until the memory must be free
    restart_limit: int = 5  # so many failures within restart_window, and the worker is "failed"
    restart_window: float = 600.0
    stable_after: float = 60.0  # after so long in "ready", the next failure counts as the first
    cool_down: float = 60.0  # time in "failed" until a request may start the worker again
    probe_interval: float = 5.0
    probe_timeout: float = 5.0
    probe_failures: int = 3  # so many consecutive failures, and the worker is unresponsive
    concurrency_limit: int = 0  # requests that the worker has at once, others wait in the proxy; 0: no limit
    queue_limit: int = 10_000  # requests that may wait for the model in the proxy; further ones get 429
    upstream_name: str = ""  # the model's name in requests to its server; "": the name that the client sent
    set_params: dict[str, Any] = field(default_factory=dict)  # top-level fields that are set in every request
    strip_params: tuple[str, ...] = ()  # top-level fields that are removed from every request
    hang_timeout: float = 300.0  # so long without a step of its scheduler, and the worker is unresponsive
    log_max_bytes: int = 64 * MiB
    log_backups: int = 3
    simulation: Simulation = Simulation()
    cuda_devices: tuple[str, ...] = ()  # names for CUDA_VISIBLE_DEVICES in place of `gpus`, where slices are meant


@dataclass(frozen=True, slots=True)
class Daemon:
    """The `[muxd]` table."""

    socket: Path
    state_dir: Path
    log_dir: Path
    log_level: str = "info"  # one of LOG_LEVELS
    log_format: str = "text"  # or "json"
    admin_group: str | None = None  # group whose members may operate, and which owns the socket
    others: str = "read"  # or "none": what any other user may do who can open the socket
    shutdown_timeout: float = 30.0  # how long SIGTERM lets requests in flight finish
    simulated_gpu_memory: int = 80 * GiB  # bytes of each simulated GPU


@dataclass(frozen=True, slots=True)
class Proxy:
    """The `[proxy]` table."""

    host: str = "127.0.0.1"
    port: int = 30100
    managed: bool = True  # muxd runs the proxy as its child
    user: str | None = None  # user of an unmanaged proxy, whose processes may hold leases
    max_body: int = 64 * MiB  # of one request
    buffer_memory: int = 512 * MiB  # of all buffered bodies together; beyond it requests get 503
    upstream_timeout: float = inf  # until the first byte of a worker's response
    drain_timeout: float = 30.0  # how long SIGTERM lets requests in flight finish
    comment_interval: float = 5.0  # between SSE comments to a client that waits for its model's stream
    allow_anonymous: bool = False  # whether clients beyond loopback may do without a key
    hosts: tuple[str, ...] = ()  # names allowed in Host, beside loopback's; see proxy/auth/hosts.py
    allow_origins: tuple[str, ...] | None = None  # of browsers' pages; None: see proxy/auth/origins.py
    metrics_listen: tuple[str, int] | None = None  # a port of its own for /metrics
    # Headers that may carry a request's id, in order of preference; where a request has none of them, the proxy makes
    # an id and sends it in the first.
    request_id_headers: tuple[str, ...] = REQUEST_ID_HEADERS
    access_log: str = "text"  # one of ACCESS_LOGS
    access_log_dir: Path | None = None  # folder of one file per day; None: stdout


@dataclass(frozen=True, slots=True)
class Key:
    """One `[[keys]]` table: an API key that clients show the proxy."""

    name: str
    secret_sha256: str = field(repr=False)  # in hex; the secret is the text after "Bearer "
    models: tuple[str, ...] = ()  # names of models; none: all models
    requests_per_minute: int = 0  # 0: no limit
    priority: int = 0  # a waiting request counts 2 ** priority times
    expires: float = inf  # seconds since the epoch
    revoked: bool = False  # kept in the file, so that revoking the last key does not let anybody in
    comments: bool = True  # whether the key's clients can cope with SSE comments
    variable: str = field(default="", repr=False, compare=False)  # environment variable with the secret; "": none


@dataclass(frozen=True, slots=True)
class Policy:
    """The `[policy]` table."""

    wait_target: float = 30.0
    keep_turns: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration; `models` are in the order of the file."""

    daemon: Daemon
    proxy: Proxy = Proxy()
    policy: Policy = Policy()
    models: tuple[Model, ...] = ()
    keys: tuple[Key, ...] = ()
    path: Path | None = None  # the main file; None: the command line alone
    remarks: tuple[str, ...] = ()  # for the operator: what muxd assumed without being told, and what looks wrong
    files: tuple[Path, ...] = ()  # the main file and those of muxd.d, in the order of merging
    read_at: int = field(default=0, compare=False)  # nanoseconds since the epoch, before the first file was read

    def with_log_level(self, level: str | None) -> "Config":
        """Return the configuration with the log level of the command line, or unchanged where that gave none."""
        return replace(self, daemon=replace(self.daemon, log_level=level)) if level is not None else self
