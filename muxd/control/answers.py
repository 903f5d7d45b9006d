"""What the control socket answers, field by field, for conf/openapi.json; a test holds real answers against it.

Times that end in `_s` are durations in seconds, others seconds since 1970; sizes are bytes.
"""

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

_Gpu = int | str  # as nvidia-smi counts them, or its UUID


def _told(text: str) -> Meta:
    return Meta(description=text)


class VersionAnswer(TypedDict):
    version: str
    pid: int
    api: Annotated[int, _told("of the control socket; grows when something is taken away")]
    started: float


class LostLogAnswer(TypedDict):
    dropped_log_bytes: Annotated[int, _told("of its log, that the disk refused")]
    dropped_log_reason: Annotated[str | None, _told("why")]
    dropped_log_now: Annotated[bool, _told("it still refuses")]
    dropped_log_ago_s: Annotated[float | None, _told("since the last loss")]


class MemoryAnswer(TypedDict):
    """On all its GPUs together."""

    declared: Annotated[int | None, _told("as configured; null: not")]
    awake: Annotated[int | None, _told("as measured; null: not yet")]
    asleep: Annotated[int | None, _told("as measured; null: not yet")]


class ExitAnswer(TypedDict):
    code: Annotated[str | None, _told("of docs/reference/errors.md; null where nothing tells the cause")]
    reason: str
    when_s: Annotated[float | None, _told("ago")]
    log_tail: Annotated[list[str], _told("its last lines; none for who may only read")]


class ReplicasAnswer(TypedDict):
    wanted: int
    ready: int
    min: int
    max: int
    automatic: Annotated[bool, _told("by load, not by an order")]
    lacks: Annotated[str | None, _told("why there are fewer than wanted")]


class WeightsAnswer(TypedDict):
    bytes: int
    in_ram: int | None
    being_read: Annotated[bool, _told("ahead, for its next start or wake")]


class WorkerAnswer(TypedDict):
    """One of a model's several workers; the fields mean what they do for a model."""

    name: str
    role: Annotated[str, _told("serve, prefill, decode or route")]
    state: str
    spare: Annotated[bool, _told("its model does without it for now")]
    since_s: float | None
    level: int | None
    gpus: list[_Gpu]
    url: str | None
    restarts: int
    pid: int | None
    last_exit: ExitAnswer | None
    reason: str | None
    memory: MemoryAnswer
    retry_in_s: Annotated[float | None, _told("until it is tried again; null: it did not fail")]


class ModelAnswer(LostLogAnswer):
    name: str
    served_names: Annotated[list[str], _told("what else clients may call it")]
    engine: str
    state: Annotated[str, _told("of docs/architecture.md: ready, asleep, unloaded, stopped, starting ...")]
    since_s: Annotated[float | None, _told("in this state")]
    sleep_level: Annotated[int, _told("at which it sleeps, as configured")]
    level: Annotated[int | None, _told("at which it sleeps now")]
    sleep_trouble: Annotated[str | None, _told("why it does not sleep at its level")]
    pinned: bool
    held: Annotated[bool, _told("by muxctl hold")]
    held_for_s: Annotated[float | None, _told("still; null: until muxctl unhold, or not held")]
    stopped_by_operator: bool
    removed: Annotated[bool, _told("by a reload; it ends once its requests have")]
    gpus: Annotated[list[_Gpu], _told("those it is on, or is to be on")]
    any_gpus: Annotated[int | None, _told('of how many, with gpus = "auto"')]
    url: Annotated[str | None, _told("of its server, while it is ready")]
    generation: Annotated[int, _told("a count of its starts and wakes")]
    in_flight: int
    waiting: int
    in_flight_batch: Annotated[int, _told("of those in flight, for which nobody waits")]
    waiting_batch: Annotated[int, _told("of those waiting, likewise")]
    oldest_wait_s: float | None
    unused_s: Annotated[float | None, _told("since its last request; null: none since muxd began")]
    leases: Annotated[int, _told("rights of proxies to send to it")]
    switch_timeout_s: float | None
    restarts: int
    pid: Annotated[int | None, _told("of its server, where it has one worker")]
    last_exit: ExitAnswer | None
    max_model_len: Annotated[int | None, _told("tokens, as its server says")]
    is_generation: bool | None
    reason: Annotated[str | None, _told("why it is in its state")]
    impossible: Annotated[str | None, _told("why it can never be loaded")]
    memory: MemoryAnswer
    next: Annotated[str | None, _told("what happens to it next")]
    eta_s: Annotated[float | None, _told("until it is ready; null: not known, or nobody wants it")]
    retry_in_s: Annotated[float | None, _told("until it is tried again; null: it did not fail")]
    weights: Annotated[WeightsAnswer | None, _told("how much of its files is in the page cache")]
    tokens_per_s: Annotated[float | None, _told("null: it has answered nothing yet")]
    requests_per_min: Annotated[int | None, _told("that ended in the last minute; null: none has ended so far")]
    replicas: NotRequired[ReplicasAnswer]
    workers: NotRequired[list[WorkerAnswer]]


class ProxyProcessAnswer(TypedDict):
    name: str
    state: str
    pid: int | None


class ProxyAnswer(TypedDict):
    listen: str
    managed: Annotated[bool, _told("muxd runs it")]
    state: Annotated[str, _told("running, starting, backoff, degraded or unmanaged")]
    pid: int | None
    dropped_log_ago_s: float | None
    reason: NotRequired[str | None]
    processes: NotRequired[list[ProxyProcessAnswer]]
    dropped_log_bytes: NotRequired[int]
    dropped_log_reason: NotRequired[str | None]
    dropped_log_now: NotRequired[bool]


class DoorAnswer(TypedDict):
    open_to: Annotated[str, _told("key_holders, host (everybody on it) or everybody")]
    keys: int
    keys_not_working: Annotated[int, _told("revoked or expired")]


class StrangerAnswer(TypedDict):
    pid: int
    program: str
    bytes: int


class StrangersAnswer(TypedDict):
    """What others than muxd's models have of a GPU."""

    bytes: int
    processes: list[StrangerAnswer]
    text: str


class GpuAnswer(TypedDict):
    index: _Gpu
    name: str
    total: int
    used: int
    for_models: Annotated[int, _told("what models may have together")]
    strangers: StrangersAnswer | None
    utilization: Annotated[int | None, _told("percent, as NVML tells")]
    temperature_c: int | None
    power_w: float | None


class HostMemoryAnswer(TypedDict):
    for_weights: Annotated[int, _told("of host RAM, what copies of weights and standbys may have")]
    weights: int
    standby: int


# fmt: off
SwitchProgressAnswer = TypedDict("SwitchProgressAnswer", {
    "to": str, "from": list[str], "phase": str, "elapsed_s": float | None, "eta_s": float | None,
})

SwitchAnswer = TypedDict("SwitchAnswer", {
    "id": int | None, "time": float, "type": str, "model": str, "from": list[str], "to": str,
    "levels": Annotated[dict[str, int | None], _told("at which those that left sleep")],
    "cause": str, "asked_by": list[dict[str, Any]], "waiting": int, "waited_s": float | None,
    "wait_target_s": float | None, "compared": list[dict[str, Any]], "began": float,
    "result": Annotated[str | None, _told("ready, failed or called_off; null while it is under way")],
    "reason": str | None, "duration_s": float | None,
    "drain_s": NotRequired[float], "sleep_s": NotRequired[float], "free_s": NotRequired[float],
    "wake_s": NotRequired[float],
})
# fmt: on


class LoanAnswer(TypedDict):
    loan: int
    gpus: list[_Gpu]
    kind: Annotated[str, _told("lend or yield")]
    granted: bool
    by: str | None
    pid: int | None
    left_s: float | None
    preemptible: bool
    refuses: bool
    recalled: bool


class StatusAnswer(TypedDict):
    version: str
    pid: int
    uptime_s: float | None
    utc_offset_s: Annotated[int, _told("of the host's local time")]
    simulated: Annotated[bool, _told("models or GPUs are pretended")]
    proxy: ProxyAnswer
    ui: Annotated[str | None, _told("where the console listens")]
    door: DoorAnswer
    gpus: list[GpuAnswer]
    host_memory: Annotated[HostMemoryAnswer | None, _told("null: nobody reckons it")]
    switch: Annotated[SwitchProgressAnswer | None, _told("the oldest that is under way")]
    loans: list[LoanAnswer]
    models: list[ModelAnswer]
    log_dir: str
    config: Annotated[str | None, _told("its file; null without one")]
    config_written: Annotated[bool, _told("the file was written since it was read")]
    reload_failed: Annotated[dict[str, Any] | None, _told("when and why the last reload failed")]


class RequestAnswer(TypedDict):
    id: str
    state: Annotated[str, _told("running, waiting or ended")]
    model: str
    since: float
    key: str
    route: str
    client: str
    waited_s: float
    first_token_s: Annotated[float | None, _told("from its arrival")]
    duration_s: float
    completion_tokens: int
    by_events: Annotated[bool, _told("tokens are counted by a stream's events")]
    tokens_per_s: float | None
    agent: NotRequired[str]
    prompt_tokens: NotRequired[int]
    status: NotRequired[int]
    end: NotRequired[Annotated[str, _told("ok, client_gone, cut or refused")]]
    code: NotRequired[Annotated[str, _told("the proxy's own error code")]]
    entry: NotRequired[Annotated[int, _told("its number among those that ended")]]
    ended: NotRequired[float]


class RequestsAnswer(TypedDict):
    requests: list[RequestAnswer]
    left_out: int


class SwitchesAnswer(TypedDict):
    switches: list[SwitchAnswer]


class FiguresAnswer(TypedDict, total=False):
    """Of one model, one for each step; null where nothing is known."""

    tokens_per_s: list[float | None]
    in_flight: list[int | None]
    waiting: list[int | None]
    first_token_p50_s: list[float | None]
    first_token_p95_s: list[float | None]
    gpu_bytes: list[int | None]


SeriesAnswer = TypedDict("SeriesAnswer", {"step": int, "from": float, "now": float, "models": dict[str, FiguresAnswer]})


class UsageRowAnswer(TypedDict):
    day: Annotated[str, _told("of UTC")]
    key: str
    model: str
    requests: int
    refused: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    event_tokens: Annotated[int, _told("of streams without usage, by their events")]


class UsageAnswer(TypedDict):
    usage: list[UsageRowAnswer]
    kept_days: int


class ReloadAnswer(TypedDict):
    applied: bool
    files: list[str]
    warnings: list[str]
    plan: list[dict[str, Any]]
    settings: list[str]
    needs_restart: list[str]
    unchanged: list[str]


class CancelAnswer(TypedDict):
    cancelled: int
    id: str


class EventAnswer(TypedDict):
    """One line; what else it has goes by its type (docs/reference/history.md)."""

    id: int
    time: float
    type: str
    model: NotRequired[str]
