"""The configuration as frozen values: every key, its unit and its default.

Times are seconds, sizes are bytes; `inf` means no limit.  How they are written in
TOML, and what is wrong with what a user wrote, is `load`'s business.
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
    """What a model holds while it is awake, in bytes over all its GPUs together."""

    weights: int = 0
    kv: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead


@dataclass(frozen=True, slots=True)
class Simulation:
    """How a simulated worker behaves (`engine = "simulator"`); figures are pretend, the processes are real."""

    load_time: float = 1.0  # seconds from exec to ready
    sleep_time: float = 0.1
    wake_time: float = 0.3
    release_lag: float = 0.0  # seconds from a release's answer until the memory is really free
    token_rate: float = 100.0  # tokens per second of one request
    batch_slots: int = 8  # requests that run at once; the rest waits inside the engine
    pace: float = 0.1  # factor on SGLang's own waits, such as the 5 s until it notices SIGTERM; 1 is as real
    faults: tuple[str, ...] = ()  # see muxd/simulator/faults.py


@dataclass(frozen=True, slots=True)
class DeclaredServer:
    """What a model's table and the text of its launch script say of the server, before anybody has seen it."""

    names: tuple[str, ...] = ()
    names_by: str = ""  # "table"; "contract", by MODEL_NAME; "flag", of a command line; "": nobody
    names_from: str = ""  # where that is, for messages
    port: int = 0  # 0: it is found once the server listens
    port_from: str = ""
    gpus: tuple[int, ...] = ()  # of the table; none: it does not say
    every: tuple[int, ...] = (0,)  # all that there are
    sleep_level: int = 3
    level_by_table: bool = False
    args: tuple[str, ...] = ()  # of handover.TELLING_FLAGS


@dataclass(frozen=True, slots=True)
class Script:
    """A launch script that starts the server: see muxd/importers for its text, and `seen` for its process."""

    argv: tuple[str, ...]  # bash, the script and its arguments
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of its text and what it reads in, by path
    digest: str = ""  # of all of these, its arguments and what muxd sets for it
    launch: str = ""  # FILE:LINE of the command that starts the server
    program: str = ""  # what that command runs, as far as it is known
    env: dict[str, str] = field(default_factory=dict)  # what muxd sets for it
    said: DeclaredServer = DeclaredServer()
    joint: bool = False  # of the command line's scripts, which share their GPUs: one is awake
    is_seen: bool = False  # its process has been, once
    contradictions: tuple[str, ...] = ()  # between what was said and what was seen
    remarks: tuple[str, ...] = field(default=(), compare=False)  # what its operator should know of it


@dataclass(frozen=True, slots=True)
class Model:
    """One `[models.NAME]` table."""

    name: str
    script: Script | None = None  # starts the server in place of muxd's own command line
    engine: str = "sglang"  # or "simulator"
    model_path: str = ""
    served_names: tuple[str, ...] = ()  # what clients send; the name itself where none is given
    gpus: tuple[int, ...] = (0,)
    memory: Memory | None = None
    sleep_level: int = 2  # 1 weights to host RAM, 2 weights discarded, 3 the process ends
    preload: bool = False
    port: int = 0  # 0: muxd chooses a free one at each start; of a script, it is found once its server listens
    python: str = "python3"  # the interpreter that has SGLang
    args: tuple[str, ...] = ()  # further flags of the engine, unchanged; of a script's those that say what it is for
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    start_timeout: float = 600.0
    stop_timeout: float = 30.0
    drain_timeout: float = 300.0
    switch_timeout: float = 600.0
    call_timeout: float = 120.0  # one engine call: release, resume, reload
    gpu_release_timeout: float = 30.0  # from an answered release, or an exit, until the memory must be free
    restart_limit: int = 5  # failures within restart_window, then "failed"
    restart_window: float = 600.0
    stable_after: float = 60.0  # ready for this long: the next failure counts as the first
    cool_down: float = 60.0  # in "failed": until a request may try once more
    probe_interval: float = 5.0
    probe_timeout: float = 5.0
    probe_failures: int = 3  # consecutive; then the worker is unresponsive
    concurrency_limit: int = 0  # requests that its worker gets at once, the rest waits in the proxy; 0: no limit
    queue_limit: int = 10_000  # requests that may wait for it in the proxy; further ones get 429
    upstream_name: str = ""  # what its server must be asked for; "": whatever the client said
    set_params: dict[str, Any] = field(default_factory=dict)  # top-level fields of a request, set for everybody
    strip_params: tuple[str, ...] = ()  # and removed
    hang_timeout: float = 300.0  # it answers, but its scheduler takes no step for this long: unresponsive
    log_max_bytes: int = 64 * MiB
    log_backups: int = 3
    simulation: Simulation = Simulation()
    cuda_devices: tuple[str, ...] = ()  # what CUDA is told where `gpus` is not enough: slices of them


@dataclass(frozen=True, slots=True)
class Daemon:
    """The `[muxd]` table."""

    socket: Path
    state_dir: Path
    log_dir: Path
    log_level: str = "info"  # of LOG_LEVELS
    log_format: str = "text"  # or "json"
    admin_group: str | None = None  # its members may operate; the socket belongs to it
    others: str = "read"  # or "none": what any other user who can open the socket may do
    shutdown_timeout: float = 30.0  # how long SIGTERM lets requests in flight finish
    simulated_gpu_memory: int = 80 * GiB  # of each pretend GPU, when a model's engine is the simulator


@dataclass(frozen=True, slots=True)
class Proxy:
    """The `[proxy]` table."""

    host: str = "127.0.0.1"
    port: int = 30100
    managed: bool = True  # muxd runs the proxy as its child
    user: str | None = None  # the uid an unmanaged proxy runs as: it may hold leases
    max_body: int = 64 * MiB  # one request
    buffer_memory: int = 512 * MiB  # all buffered bodies together; beyond it 503
    upstream_timeout: float = inf  # to the first byte of an answer
    drain_timeout: float = 30.0  # how long SIGTERM lets requests in flight finish
    comment_interval: float = 5.0  # between two SSE comments to a streaming client that waits for its model
    allow_anonymous: bool = False  # without a key, beyond loopback
    hosts: tuple[str, ...] = ()  # names that requests may call it by, beside loopback's; see proxy/doors/hosts.py
    allow_origins: tuple[str, ...] | None = None  # of browsers' pages; None: see proxy/doors/origins.py
    metrics_listen: tuple[str, int] | None = None  # a port of its own for /metrics
    request_id_headers: tuple[str, ...] = REQUEST_ID_HEADERS  # the first that a request has; the first of all is made
    access_log: str = "text"  # of ACCESS_LOGS
    access_log_dir: Path | None = None  # one file a day there; None: stdout


@dataclass(frozen=True, slots=True)
class Key:
    """One `[[keys]]` table: an API key that clients show the proxy."""

    name: str
    secret_sha256: str = field(repr=False)  # hex, of what follows "Bearer "
    models: tuple[str, ...] = ()  # names of models; none: all
    requests_per_minute: int = 0  # 0: no limit
    priority: int = 0  # a waiting request counts 2 ** priority times
    expires: float = inf  # seconds since the epoch
    revoked: bool = False  # kept in the file, so that revoking the last key does not open the door
    comments: bool = True  # its holder can bear SSE comments
    variable: str = field(default="", repr=False, compare=False)  # of the environment, where the secret is in one


@dataclass(frozen=True, slots=True)
class Policy:
    """The `[policy]` table."""

    wait_target: float = 30.0
    keep_turns: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration; `models` in the order of the file."""

    daemon: Daemon
    proxy: Proxy = Proxy()
    policy: Policy = Policy()
    models: tuple[Model, ...] = ()
    keys: tuple[Key, ...] = ()
    path: Path | None = None  # the file it came from
    remarks: tuple[str, ...] = ()  # what nobody wrote and muxd went by, and what looks wrong
    files: tuple[Path, ...] = ()  # all that were read: it and those of muxd.d, in the order they were merged in
    read_at: int = field(default=0, compare=False)  # nanoseconds since the epoch, before the first of them was read

    def with_log_level(self, level: str | None) -> "Config":
        """As it is, but for a level that the command line gave."""
        return replace(self, daemon=replace(self.daemon, log_level=level)) if level is not None else self
