"""The routes that probe the engine and control it: health, loads, pause, release, resume, reload."""

import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import trio

from muxd import __version__
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter

from .command_line import Flags, GiB
from .faults import EngineCall, Faults, LackingFeature
from .routes import EngineRefusal, EngineRoute, bad_request, fields
from .simulated_engine import SimulatedEngine, Status

# SGLang's own waits in seconds; Flags.seconds brings them to this simulator's pace.
HEALTH_TICK = 1.0
HEALTH_TIMEOUT = 20.0

_VERSION = f"0.5.23+muxd.simulator.{__version__}"


def control_routes(engine: SimulatedEngine) -> dict[str, EngineRoute]:
    """Return these routes by path, less those that the fault `lacks` takes away."""
    flags = engine.flags
    probe, steer = _Probes(engine), _Steering(engine, flags.faults)
    both = ("GET", "POST")
    routes = {
        "/": EngineRoute(probe.root, ("GET", "HEAD")),
        "/ready": EngineRoute(probe.ready),
        "/ping": EngineRoute(probe.ping),
        "/health": EngineRoute(probe.health),
        "/health_generate": EngineRoute(probe.health),
        "/v1/loads": EngineRoute(probe.loads),
        "/v1/models": EngineRoute(probe.models),
        "/v1/models/": EngineRoute(probe.model),
        "/model_info": EngineRoute(probe.model_info),
        "/get_model_info": EngineRoute(probe.model_info),
        "/server_info": EngineRoute(probe.server_info),
        "/get_server_info": EngineRoute(probe.server_info),
        "/pause_generation": EngineRoute(steer.pause, ("POST",), control=True),
        "/continue_generation": EngineRoute(steer.unpause, ("POST",), control=True),
        "/release_memory_occupation": EngineRoute(steer.release, both, control=True),
        "/resume_memory_occupation": EngineRoute(steer.resume, both, control=True),
        "/update_weights_from_disk": EngineRoute(steer.reload, ("POST",), control=True),
        "/flush_cache": EngineRoute(steer.flush_cache, both, control=True),
        "/abort_request": EngineRoute(steer.abort, ("POST",), control=True),
    }
    lacking = _SLEEP_ROUTES if flags.faults.has("lacks", LackingFeature.SLEEP_ROUTES) else ()
    return {path: route for path, route in routes.items() if path not in lacking}


_SLEEP_ROUTES = (
    "/pause_generation",
    "/continue_generation",
    "/release_memory_occupation",
    "/resume_memory_occupation",
)


async def _send_empty(exchange: ResponseWriter, status: int) -> None:
    await exchange.start_stream("text/plain; charset=utf-8", status)


class _Probes:
    """The routes that change nothing, but for /health, which can make the server unhealthy."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._flags: Flags = engine.flags

    async def root(self, request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(200, "SGLang is running")

    async def ready(self, request: Request, exchange: ResponseWriter) -> None:
        await _send_empty(exchange, 200 if self._engine.ready else 503)

    async def ping(self, request: Request, exchange: ResponseWriter) -> None:
        await _send_empty(exchange, 200 if self._engine.healthy else 503)

    async def health(self, request: Request, exchange: ResponseWriter) -> None:
        await _send_empty(exchange, 200 if await self._is_well(request.path) else 503)

    async def _is_well(self, path: str) -> bool:
        """Say whether a token can be made; a paused server makes none, and becomes unhealthy by the check."""
        engine, flags = self._engine, self._flags
        if engine.exiting or engine.status is Status.STARTING:
            return False
        generates = os.environ.get("SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "true").lower()
        if path == "/health" and generates in ("0", "false"):
            return True
        with trio.move_on_after(flags.seconds(HEALTH_TIMEOUT)) as scope:
            async with engine.request(f"HEALTH_CHECK_{uuid4().hex}"):
                await trio.sleep(flags.seconds(HEALTH_TICK))
        if scope.cancelled_caught:
            print("Health check failed. Server couldn't get a response from detokenizer", file=sys.stderr, flush=True)
        engine.status = Status.UNHEALTHY if scope.cancelled_caught else Status.UP
        return not scope.cancelled_caught

    async def loads(self, request: Request, exchange: ResponseWriter) -> None:
        batch = self._engine.batch
        load = {
            "timestamp": self._engine.last_step,
            "dp_rank": 0,
            "num_running_reqs": batch.running,
            "num_waiting_reqs": batch.waiting,
            "max_running_requests": self._flags.batch_slots,
            "gen_throughput": batch.running * self._flags.token_rate,
            "memory": {
                "weight_gb": round(self._flags.weights / GiB, 3),
                "kv_cache_gb": round(self._flags.kv / GiB, 3),
                "graph_gb": 0.0,
                "token_capacity": self._flags.kv >> 17,
            },
            "queues": {"waiting": batch.waiting, "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
        }
        now = datetime.now(UTC).isoformat()
        await exchange.send_json(200, {"timestamp": now, "version": _VERSION, "num_accelerators": 1, "loads": [load]})

    async def models(self, request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(200, {"object": "list", "data": [self._card()]})

    async def model(self, request: Request, exchange: ResponseWriter) -> None:
        name = request.path.removeprefix("/v1/models/")
        if name != self._engine.served_model_name:
            error = {"type": "invalid_request_error", "param": "model", "code": "model_not_found"}
            raise EngineRefusal(404, {"error": {"message": f"The model '{name}' does not exist", **error}})
        await exchange.send_json(200, self._card())

    def _card(self) -> dict[str, Any]:
        name = self._engine.served_model_name
        card = {"id": name, "object": "model", "created": int(time()), "owned_by": "sglang", "root": name}
        return {**card, "parent": None, "max_model_len": self._flags.context_length}

    async def model_info(self, request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(200, self._info())

    async def server_info(self, request: Request, exchange: ResponseWriter) -> None:
        flags = self._flags
        launch = {
            "host": flags.host,
            "port": flags.port,
            "tp_size": flags.tp_size,
            "dp_size": flags.dp_size,
            "context_length": flags.context_length,
            "enable_memory_saver": flags.enable_memory_saver,
            "enable_weights_cpu_backup": flags.enable_weights_cpu_backup,
            "max_running_requests": flags.batch_slots,
        }
        await exchange.send_json(200, {**self._info(), **launch, "version": _VERSION, "internal_states": [{}]})

    def _info(self) -> dict[str, Any]:
        return {
            "model_path": self._engine.model_path,
            "served_model_name": self._engine.served_model_name,
            "tokenizer_path": self._flags.model_path,
            "is_generation": not self._flags.is_embedding,
            "weight_version": "default",
            "load_format": "auto",
            "simulated": True,
        }


class _Steering:
    """The routes that muxd calls to change the server, and that faults can make fail."""

    def __init__(self, engine: SimulatedEngine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults

    async def pause(self, request: Request, exchange: ResponseWriter) -> None:
        mode = fields(request).get("mode", "abort")
        if mode not in ("abort", "in_place", "retract"):
            raise bad_request("1 validation error:\n  Input should be 'abort', 'retract' or 'in_place'", "Bad Request")
        await self._attempt(EngineCall.PAUSE, exchange, lambda: self._engine.pause(mode))
        await exchange.send_json(200, {"message": "Generation paused successfully.", "status": "ok"})

    async def unpause(self, request: Request, exchange: ResponseWriter) -> None:
        fields(request)
        await self._attempt(EngineCall.CONTINUE, exchange, self._engine.unpause)
        await exchange.send_json(200, {"message": "Generation continued successfully.", "status": "ok"})

    async def release(self, request: Request, exchange: ResponseWriter) -> None:
        tags = _tags(request)
        await self._attempt(EngineCall.RELEASE, exchange, lambda: self._engine.release(tags))
        await exchange.send_json(200, None)

    async def resume(self, request: Request, exchange: ResponseWriter) -> None:
        tags = _tags(request)
        await self._attempt(EngineCall.RESUME, exchange, lambda: self._engine.resume(tags))
        await exchange.send_json(200, None)

    async def reload(self, request: Request, exchange: ResponseWriter) -> None:
        path = str(fields(request, needs=("model_path",))["model_path"]) or self._engine.flags.model_path
        if not self._exists(path):
            raise EngineRefusal(400, _reloaded(False, f"Failed to get weights iterator: '{path}'."))
        await self._attempt(EngineCall.RELOAD, exchange, lambda: self._engine.reload(path))
        await exchange.send_json(200, _reloaded(True, "Succeeded to update model weights."))

    def _exists(self, path: str) -> bool:
        """Say whether weights can be read: a name counts as one on a hub, and a path must exist.

        The path that the server was started with counts as existing: pretend weights need no place.
        """
        return not path.startswith("/") or path == self._engine.flags.model_path or Path(path).exists()

    async def flush_cache(self, request: Request, exchange: ResponseWriter) -> None:
        idle = not (self._engine.batch.running or self._engine.batch.waiting)
        await exchange.start_stream("text/plain; charset=utf-8", 200 if idle else 400)
        await exchange.write(b"Cache flushed.\n" if idle else b"Flush cache failed.\n")

    async def abort(self, request: Request, exchange: ResponseWriter) -> None:
        """Abort the request with this id, and all whose ids begin with it; an unknown id aborts none, as in SGLang."""
        body = fields(request)
        rid = str(body.get("rid") or "")
        if body.get("abort_all"):
            self._engine.batch.abort("")
        elif rid in self._engine.requests:
            self._engine.batch.abort(rid)
        await _send_empty(exchange, 200)

    async def _attempt(
        self, call: EngineCall, exchange: ResponseWriter, carry_out: Callable[[], Awaitable[None]]
    ) -> None:
        """Carry the call out, unless a fault has it fail, end the main process, or never be answered."""
        if self._faults.has("die-on", call):
            print(f"fault: dying on {call}", file=sys.stderr, flush=True)
            self._engine.end(self._faults.exit_code)
        if self._faults.has("fail-on", call):
            reload = call is EngineCall.RELOAD
            raise EngineRefusal(
                400 if reload else 500, _reloaded(False, _NO_RELOAD) if reload else "Internal Server Error"
            )
        await carry_out()
        if self._faults.has("hang-on", call):
            await exchange.disconnected()


def _tags(request: Request) -> list[str]:
    """Return the tags in the body; an empty list stands for all.  Raise EngineRefusal."""
    tags = fields(request).get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise bad_request("1 validation error:\n  'Input should be a valid list'", "Bad Request")
    return tags


#: SGLang's refusal to reload a checkpoint in FP8.
_NO_RELOAD = (
    "Failed to update weights: 'Parameter' object has no attribute 'weight_loader'.\nRolling back to original weights."
)


def _reloaded(success: bool, message: str) -> dict[str, Any]:
    return {"success": success, "message": message, "num_paused_requests": 0}
