"""The configuration as frozen values; each key is declared here, once, and those of models in `model_schema`.

Times are in seconds, sizes in bytes; `inf` means no limit.  `load` reads the values from TOML and checks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from math import inf
from pathlib import Path
from typing import Any

from muxd.log_levels import LOG_LEVELS

from .declarations import key
from .key_readers import as_moment, digest, key_name, moment, some_names, variable
from .model_capabilities import NOTHING_TOLD, ToldCapabilities
from .model_schema import Model
from .readers import (
    Address,
    address,
    boolean,
    choice,
    count_or_auto,
    duration,
    gpu_sizes,
    header_names,
    host_names,
    integer,
    origins,
    path,
    size,
    text,
)

GiB = 1 << 30
MiB = 1 << 20

#: Processes of one proxy.
MOST_PROCESSES = 64


@dataclass(frozen=True, slots=True)
class Daemon:
    """The `[muxd]` table."""

    socket: Path = key(
        path,
        example="/run/muxd/muxd.sock",
        told=True,
        doc="Where muxctl finds muxd.  Default: $RUNTIME_DIRECTORY/muxd.sock (set by systemd), else "
        "$XDG_RUNTIME_DIR/muxd/muxd.sock, else ~/.local/state/muxd/muxd.sock.  At most 107 bytes.",
    )
    state_dir: Path = key(
        path,
        example="/var/lib/muxd",
        told=True,
        doc="What survives a restart.  Default: $STATE_DIRECTORY, else ~/.local/state/muxd.",
    )
    log_dir: Path = key(
        path,
        example="/var/log/muxd",
        told=True,
        doc="NAME.stdout.log and NAME.stderr.log of every model and, hidden beside them, when their lines came; "
        "muxd.stderr.log of muxd itself.  Default: $LOGS_DIRECTORY, else logs in state_dir.",
    )
    cache_dir: Path | None = key(
        path,
        unset=None,
        example="/var/cache/muxd",
        told=True,
        doc="What models' servers compile is kept in kernels below it (Triton, Inductor, FlashInfer, DeepGEMM, the "
        "engine's own), for all of them and over restarts.  A variable that muxd's environment or a model's env has, "
        "such as TRITON_CACHE_DIR, goes before it.  Default: $CACHE_DIRECTORY, else muxd in $XDG_CACHE_HOME, else "
        "~/.cache/muxd.",
    )
    log_level: str = key(
        choice(*LOG_LEVELS),
        "info",
        live=True,
        told=True,
        doc="muxd's own log, on stderr: debug, info, warning or error.  `muxd start --log-level debug` goes before "
        "what is here.",
    )
    log_format: str = key(
        choice("text", "json"),
        "text",
        live=True,
        told=True,
        doc="That log as text or as JSON lines.  Under systemd each line has its priority for the journal, and text "
        "no time of its own.",
    )
    admin_group: str | None = key(
        text,
        unset=None,
        example="muxd",
        doc="The socket belongs to this group and its members may switch models and stop muxd.\n"
        "Default: none; only root and muxd's own user may.",
    )
    others: str = key(
        choice("read", "none"),
        "read",
        doc='What anybody else who can open the socket may do: "read" the status and the events, or "none".',
    )
    shutdown_timeout: float = key(
        duration(), "30s", live=True, told=True, doc="How long a stop lets requests in flight finish."
    )
    on_crash: str = key(
        choice("adopt", "stop"),
        "adopt",
        doc='What muxd does with workers and a proxy that a killed muxd has left: "adopt" takes over those that are as '
        'it left them, without a break for their streams, and ends the others; "stop" ends all.',
    )
    host_memory: int | None = key(
        size(low=MiB),
        unset=None,
        example="200GiB",
        doc="Host RAM that the weights of all models with sleep_level = 1 may take together, from their start on.  One "
        "that finds no room there sleeps at level 2.  Default: nine tenths of what is available when muxd starts.",
    )
    simulated_gpus: int = key(
        integer(1, 64),
        1,
        doc='How many pretend GPUs there are for simulated models with gpus = "auto".',
    )
    simulated_gpu_memory: int = key(
        size(low=MiB), "80GiB", doc='The size of each pretend GPU, for models with engine = "simulator".'
    )


@dataclass(frozen=True, slots=True)
class Proxy:
    """The `[proxy]` table."""

    listen: Address = key(
        address,
        "127.0.0.1:30100",
        told=True,
        doc='Where clients find the OpenAI API.  "0.0.0.0:30100" lets other machines in, "[::]:30100" IPv6 too; then '
        "there must be [[keys]].",
    )
    managed: bool = key(boolean, True, doc="false: the proxy is a service of its own, and muxd only grants it leases.")
    user: str | None = key(
        text, unset=None, example="muxd-proxy", doc="The user that such a proxy runs as.  Default: none."
    )
    processes: int | None = key(
        count_or_auto(1, MOST_PROCESSES),
        1,
        doc='Processes that serve clients at that address, each on a core of its own; "auto": one for each core, at '
        "most 8.  One carries some thousand requests a second and 10 000 streams, and keeps queue_limit and priority "
        "to the letter; of several each has its share of queue_limit and buffer_memory, and a queue of its own.  "
        "concurrency_limit and requests_per_minute hold over all of them.",
    )
    max_body: int = key(size(low=1024), "64MiB", told=True, doc="The largest request body.")
    buffer_memory: int = key(
        size(low=1024),
        "512MiB",
        told=True,
        doc="What all request bodies together may take in memory; beyond it requests get 503.",
    )
    upstream_timeout: float = key(
        duration(0.1, endless=True),
        "inf",
        told=True,
        doc="How long a model may take to the first byte of its answer.",
    )
    drain_timeout: float = key(
        duration(endless=True),
        "30s",
        told=True,
        doc="How long SIGTERM lets requests in flight finish; where muxd runs the proxy, no longer than its "
        "shutdown_timeout.",
    )
    comment_interval: float = key(
        duration(0.1, endless=True),
        "5s",
        told=True,
        doc='A client that asked with "stream": true gets an SSE comment this often until its answer begins, which '
        'tells phase and ETA and keeps the connection alive; "inf": none.  One that cannot bear them sends '
        '"x-muxd-comments: off".',
    )
    allow_anonymous: bool = key(
        boolean,
        False,
        told=True,
        doc="Without [[keys]] the proxy listens on loopback only, unless this says that anybody may use the models.",
    )
    hosts: tuple[str, ...] = key(
        host_names,
        [],
        told=True,
        doc="The names that requests may call this proxy by, in their header Host.  On loopback and without [[keys]] "
        "these are localhost, names below it and loopback's addresses, so that no web page reaches the models by a "
        "name of its own that leads here (DNS rebinding); what is said here is taken as well: "
        '"gpu1.example", "*.example" for all names below it, or "*" for any.  With [[keys]] or allow_anonymous any '
        "name is taken, unless something is said here.",
    )
    allow_origins: tuple[str, ...] | None = key(
        origins,
        unset=None,
        example=["http://localhost:3000"],
        told=True,
        doc="The origins whose pages a browser lets read the answers (CORS), as in "
        '"https://chat.example" or "http://localhost:3000"; "*" is any.  Requests that a page of any other origin '
        "sends are refused before a model is switched, so [] shuts out every page but those that come from the "
        "proxy's own address.\n"
        "Default: on loopback without [[keys]] any origin, as with SGLang: a page that is open in a browser on this "
        "machine may use the models then, and switch them; elsewhere none, but for what the models' servers allow.",
    )
    metrics_listen: Address | None = key(
        address,
        unset=None,
        example="127.0.0.1:30101",
        told=True,
        doc="/metrics for Prometheus on a port of its own, beside the one that listen has.  Nobody is asked for a key "
        "there: beyond loopback, where a Prometheus on another machine needs it, a firewall has to keep the others "
        "out.  On loopback it may be called by the same names as the proxy there, see hosts.  Default: none.",
    )
    request_id_headers: tuple[str, ...] = key(
        header_names,
        ["x-request-id", "x-correlation-id", "x-trace-id", "request-id"],
        told=True,
        doc="A request's id is in the first of these headers that it has; where it has none, one is made and sent in "
        "the first.  It is sent to the worker and back to the client; with [] it is only in the log.",
    )
    access_log: str = key(
        choice("text", "json", "off"),
        "text",
        told=True,
        doc='One line for every request: "text", "json" or "off".  It is written within 0.4 s of the '
        "request's end: so much is lost of a proxy that is killed by SIGKILL.",
    )
    access_log_dir: Path | None = key(
        path,
        unset=None,
        example="/var/log/muxd/access",
        told=True,
        doc="Those lines go to access-YEAR-MONTH-DAY.log in this folder, which is made where it can be.  Default: to "
        "stdout; muxd writes it to muxd-proxy.stdout.log in log_dir.",
    )

    @property
    def host(self) -> str:
        return self.listen.host

    @property
    def port(self) -> int:
        return self.listen.port


@dataclass(frozen=True, slots=True)
class Policy:
    """The `[policy]` table."""

    wait_target: float = key(
        duration(endless=True),
        "30s",
        live=True,
        doc="How long a request should wait at most while another model is busy.  A goal that decides whose turn it "
        "is: no request fails by it.  Up to eight and a half times as long where switches and drains were measured to "
        "take long, up to ten times where many more requests are in flight than wait, up to twelve where some answers "
        "take far longer than others; but with all else that counts at most nine tenths of the model's switch_timeout.",
    )
    keep_turns: bool = key(
        boolean,
        True,
        live=True,
        doc="Whether a model that has answered is kept while another one waits, for as long as its clients usually "
        "take to send their next request: only where that is much less than a switch there and back takes, and never "
        "past the bound of who waits.",
    )
    default_model: str = key(
        text,
        unset="",
        example="qwen",
        live=True,
        doc="The model that comes back when nothing else is wanted.  Default: none, and what was awake last stays.",
    )
    default_after: float = key(
        duration(),
        "1min",
        live=True,
        doc="How long the models in its way must have been without a request then.",
    )
    batch_max_wait: float = key(
        duration(),
        "10min",
        live=True,
        told=True,
        doc="How long batch requests may wait at most while interactive ones go before them, in the line for a model "
        "and for a place at its worker.",
    )


@dataclass(frozen=True, slots=True)
class GpuBudgets:
    """The `[gpus]` table: how much of each GPU muxd's models may have together, in bytes."""

    reserve: int = key(size(), 0, live=True, doc="So much of each GPU is never promised to a model.")
    memory: Mapping[str, int] = key(
        gpu_sizes,
        {},
        live=True,
        doc='How much of a GPU models may have together, as in { 0 = "40GiB" }; a GPU is named as in a model\'s gpus.  '
        "Default: all that NVML says, without the reserve.  Where no GPU can be read, what is written here holds.",
    )

    def most(self, gpu: str, total: int, strangers: int = 0) -> int:
        """Return the bytes that models may have of a GPU of `total` bytes, of which strangers have so many."""
        return max(0, min(int(self.memory.get(gpu, total)), total - self.reserve - strangers))

    def declared(self) -> dict[str, int]:
        """Return the bytes that models may have of each GPU in `memory`, where nobody can read the GPUs."""
        return {gpu: max(0, int(size) - self.reserve) for gpu, size in self.memory.items()}


@dataclass(frozen=True, slots=True)
class Console:
    """The `[ui]` table: the console, a web page for operators."""

    listen: Address | None = key(
        address,
        unset=None,
        example="127.0.0.1:30102",
        told=lambda value: str(value),
        doc="Where the console listens, which muxd then runs beside the proxy; `muxctl ui` opens it.  On loopback "
        "whoever reaches it may look, and operating takes a [[keys]] with admin = true or the link that `muxctl ui` "
        "makes; beyond loopback looking takes one with view = true, or admin = true.  It speaks plain HTTP.  "
        "Default: none.",
    )
    hosts: tuple[str, ...] = key(
        host_names,
        [],
        told=True,
        doc="The names by which browsers may call it, beside localhost and loopback's addresses; others are refused, "
        "against DNS rebinding.",
    )


@dataclass(frozen=True, slots=True)
class Key:
    """One `[[keys]]` table: an API key that clients show the proxy.

    Of `secret_sha256` and `secret_env` a table has one.
    """

    name: str = key(key_name, example="alice", told=True, doc='a-z, 0-9, ".", "_" and "-"; each one once.')
    secret_sha256: str = key(
        digest,
        example="2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
        told=True,
        repr=False,
        doc="The SHA-256 of the secret in hex, as `printf %s SECRET | sha256sum` prints it.",
    )
    models: tuple[str, ...] = key(
        some_names,
        unset=(),
        example=["qwen"],
        told=True,
        doc="What it is for: names of models, or what clients call them.  Default: all.",
    )
    requests_per_minute: int = key(
        integer(1, 1_000_000),
        unset=0,
        example=60,
        told=True,
        doc="Further requests get 429.  The key may send so many at once, and one more each time that its share of a "
        "minute is over.  Default: no limit.",
    )
    priority: int = key(
        integer(-10, 10),
        0,
        told=True,
        doc="From -10 to 10: while it waits for a model, a request counts as 2 to the power of this.",
    )
    expires: float = key(
        moment,
        unset=inf,
        example=date(2027, 1, 31),
        told=as_moment,
        doc="Refused from then on; a date is its first moment, and without an offset it is UTC.  Default: never.",
    )
    request_class: str = key(
        choice("interactive", "batch"),
        "interactive",
        told=True,
        doc='"batch": nobody waits for the answers.  Such requests come after all others, for at most batch_max_wait, '
        "and cause no switch while somebody is likely to use what is awake.  Any client may have its requests counted "
        'so by a header, "x-muxd-class: batch", or by "service_tier": "flex" in the body.',
    )
    keep_alive: float = key(
        duration(endless=True),
        0,
        told=True,
        doc="How long its holder may have a model kept awake after its last request, by keep_alive (Ollama) or ttl "
        "(LM Studio) in the body; what asks for longer gets this.  0: these fields have no effect, but that a zero "
        'by Ollama\'s routes lets a model go that nobody else uses; "inf": any time.  Without [[keys]] anybody may.',
    )
    view: bool = key(boolean, False, told=True, doc="Its holder may look at the console: see [ui].")
    admin: bool = key(
        boolean,
        False,
        told=True,
        doc="Its holder may operate muxd by the console, and read the models' logs: see [ui].",
    )
    revoked: bool = key(
        boolean,
        False,
        told=True,
        doc="Refused.  While the table is there, the door stays shut, even if it is the last one.",
    )
    comments: bool = key(
        boolean,
        True,
        told=True,
        doc="false: its holder's client cannot bear SSE comments in a stream, and gets silence until its answer "
        'begins.  Any client can ask for that with a header, "x-muxd-comments: off".',
    )
    secret_env: str = key(
        variable,
        unset="",
        example="ALICES_KEY",
        repr=False,
        compare=False,
        doc="In place of secret_sha256: the environment variable of muxd that holds the secret.",
    )


#: The tables of a configuration file that have keys of their own, beside those of the models and [[keys]].
SECTIONS: dict[str, type] = {"muxd": Daemon, "proxy": Proxy, "policy": Policy, "gpus": GpuBudgets, "ui": Console}


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration; `models` are in the order of the file."""

    daemon: Daemon
    proxy: Proxy = Proxy()
    policy: Policy = Policy()
    gpus: GpuBudgets = GpuBudgets()
    ui: Console = Console()
    models: tuple[Model, ...] = ()
    keys: tuple[Key, ...] = ()
    path: Path | None = None  # the main file; None: the command line alone
    remarks: tuple[str, ...] = ()  # for the operator: what muxd assumed without being told, and what looks wrong
    import_remarks: tuple[str, ...] = ()  # for the operator: what of another program's configuration has no equal here
    capabilities: ToldCapabilities = NOTHING_TOLD  # in the proxy: what muxd has told of it
    files: tuple[Path, ...] = ()  # the main file and those of muxd.d, in the order of merging
    read_at: int = field(default=0, compare=False)  # nanoseconds since the epoch, before the first file was read

    @property
    def sections(self) -> dict[str, Any]:
        """Return the tables in SECTIONS, by their names."""
        return {"muxd": self.daemon, "proxy": self.proxy, "policy": self.policy, "gpus": self.gpus, "ui": self.ui}

    def with_log_level(self, level: str | None) -> "Config":
        """Return the configuration with the log level of the command line, or unchanged where that gave none."""
        return replace(self, daemon=replace(self.daemon, log_level=level)) if level is not None else self
