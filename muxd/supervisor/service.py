"""What the control socket asks for: the methods of a ControlService, answered from what the supervisor knows.

Only `reload`, `metrics` and `prepare_handover` wait: a status is never answered behind a switch.
"""

import logging
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import trio

from muxd import __version__, status
from muxd.borrowers import Borrower
from muxd.config.loopback import url_host
from muxd.config.proxy_settings import settings_for_proxy
from muxd.config.units import show_duration
from muxd.core.events import HoldAsked, HoldEnded, OrderGiven, SwitchAsked, ValidationEnded, Verb
from muxd.core.spec import LoanTerms
from muxd.engines.registry import kind_of
from muxd.errors import BadRequest, ModelNotFound, MuxdError, NotHeld, RequestNotFound
from muxd.frontends.console_child import console_log_files
from muxd.history.journal import ALL, EntryFilter
from muxd.history.series import FIELDS, SeriesQuery
from muxd.history.usage_book import KEPT_DAYS
from muxd.log_losses import LogTeller
from muxd.log_names import own_log_file
from muxd.metrics import SupervisorMetrics
from muxd.protocol import seconds
from muxd.workers import RouterRunner

from .console_links import LIFE, ConsoleLinks
from .context import SupervisorContext
from .handover import Handover
from .reload import Reloader
from .sessions import ProxySession

log = logging.getLogger(__name__)


class SupervisorService:
    """The supervisor as the control socket's server sees it; `shutdown` is the loop's, `leave` the handover's."""

    def __init__(
        self,
        context: SupervisorContext,
        reloader: Reloader,
        metrics: SupervisorMetrics,
        shutdown: Callable[..., None],
        handover: Handover,
        started: float,
    ) -> None:
        self._context = context
        self._view = context.view
        self._runners = context.runners
        self._journal = context.journal
        self._losses = context.losses
        self._reloader = reloader
        self._metrics = metrics
        self._started = started
        self._console_links = ConsoleLinks()
        self.shutdown = shutdown
        self.leave = handover.leave
        self.prepare_handover = handover.prepare

    # What is asked

    def version(self) -> dict[str, Any]:
        started = time.time() - (trio.current_time() - self._started)
        return {"version": __version__, "pid": os.getpid(), "api": 1, "started": round(started, 3)}

    def status(self) -> dict[str, Any]:
        now, config, host = trio.current_time(), self._reloader.config, self._view.host()
        strangers = self._context.measurements.strangers.found
        proxy = self._context.proxy.status()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": seconds(now - self._started),
            "utc_offset_s": time.localtime().tm_gmtoff,
            "simulated": any(kind_of(model).is_pretend for model in config.models),
            "proxy": proxy | {"dropped_log_ago_s": seconds(self._losses.ago(["muxd-proxy"], now))},
            "ui": str(config.ui.listen) if config.ui.listen is not None else None,
            "door": status.door_status(config, time.time()),
            "gpus": status.gpu_status(self._context.workers.gpus, config.gpus, strangers),
            "host_memory": status.host_memory_status(host),
            "switch": self._switch_status(now),
            "loans": self._context.loans.status(),
            "models": [self._model_status(name, now) for name in host.groups],
            "log_dir": str(config.daemon.log_dir),
            "config": str(config.path) if config.path is not None else None,
            "config_written": self._reloader.is_written,
            "reload_failed": self._reloader.failed,
        }

    def _switch_status(self, now: float) -> dict[str, Any] | None:
        """Return the oldest switch that is under way, or None."""
        for switch in self._view.switches():
            return status.switch_status(switch, self._view.group(switch.target, now).progress, now)
        return None

    def _model_status(self, name: str, now: float) -> dict[str, Any]:
        group = self._view.group(name, now)
        said = status.model_status(group, self._runners, self._runners.models.get(name), now)
        members = [worker.name for worker in group.members]
        return said | {
            "weights": self._context.weights.status(name),
            "tokens_per_s": self._context.history.series.rate(time.time(), name),
            "requests_per_min": self._context.history.requests_per_minute(name),
            "dropped_log_ago_s": seconds(self._losses.ago(members, now)),
        }

    def proxy_settings(self) -> dict[str, Any]:
        return settings_for_proxy(self._reloader.config)

    async def metrics(self) -> bytes:
        return await self._metrics.page()

    def resolve(self, name: str) -> str:
        return self._runners.resolve(name)

    def model_status(self, name: str) -> dict[str, Any]:
        return self._model_status(name, trio.current_time())

    def events(
        self, after: int | None, *, follow: bool, wanted: EntryFilter = ALL
    ) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self._journal.read(after, follow=follow, wanted=wanted)

    async def requests(self, states: frozenset[str], wanted: EntryFilter) -> dict[str, Any]:
        board = self._context.sessions.board
        requests, left_out = await board.under_way()  # by then each proxy has told those that ended, too
        if states == {"ended"}:
            left_out = 0
        found = [
            request
            for request in requests
            if (not states or request["state"] in states)
            and wanted.model in (None, request["model"])
            and wanted.key in (None, request["key"])
        ]
        if not states or "ended" in states:
            async for entry in board.ended.read(0, follow=False, wanted=wanted):
                if entry["type"] == "request":
                    facts = {key: value for key, value in entry.items() if key not in ("id", "time", "type", "request")}
                    found.append({"id": entry["request"], **facts, "entry": entry["id"], "ended": entry["time"]})
        return {"requests": found, "left_out": left_out}

    def ended_requests(self, after: int | None, wanted: EntryFilter) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self._context.sessions.board.ended.read(after, follow=True, wanted=wanted)

    async def cancel_request(self, id: str, by: str) -> dict[str, Any]:
        count = await self._context.sessions.board.cancel(id)
        if not count:
            raise RequestNotFound(f"no request {id} waits or runs; muxctl requests lists those that do", id=id)
        self._journal.record("operator", order="cancel", request=id, by=by)
        log.info("request %s: an operator (%s) cancelled it", id, by)
        return {"cancelled": count, "id": id}

    def log_of(self, name: str) -> tuple[dict[str, Path], dict[str, Any] | None]:
        if name in self._runners and name not in self._runners.names:
            return self._runners.logs_of([name])
        if name in self._runners.names or name not in ("muxd", "proxy", "router", "ui"):
            return self._runners.logs_of(self._view.members(self.resolve(name)))
        teller: LogTeller | None = self._context.proxy.log_teller
        if name == "router":
            return self._logs_of_routers()
        if name == "proxy":
            if teller is None:
                where = "see its unit's journal (journalctl -u), or where its stderr goes"
                raise ModelNotFound(f"the proxy is a service of its own: {where}", model=name)
            return teller.log_files, status.lost(teller.dropped)
        if name == "ui" and self._reloader.config.ui.listen is None:
            raise ModelNotFound("there is no console: [ui] listen is not set", model=name)
        return self._own_logs()[name], None

    def _logs_of_routers(self) -> tuple[dict[str, Path], dict[str, Any] | None]:
        names = (name for group in self._view.host().groups for name in self._view.members(group))
        routers = [name for name in names if isinstance(self._runners[name], RouterRunner)]
        if not routers:
            raise ModelNotFound("no model has a router: none has replicas, or prefill and decode", model="router")
        files, lost = self._runners.logs_of(routers)
        return {label if " " in label else f"{routers[0]} {label}": path for label, path in files.items()}, lost

    def _own_logs(self) -> dict[str, dict[str, Path]]:
        """Return the log files of muxd itself and of its console, where it has one."""
        config = self._reloader.config
        own = {"muxd": {"stderr": own_log_file(config.daemon.log_dir)}}
        return own | ({"ui": console_log_files(config)} if config.ui.listen is not None else {})

    def all_logs(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        teller: LogTeller | None = self._context.proxy.log_teller
        models = {name: self._runners.logs_of(self._view.members(name))[0] for name in self._view.host().groups}
        proxy = {"proxy": teller.log_files} if teller is not None else {}
        for name, files in {**models, **proxy, **self._own_logs()}.items():
            found |= {label if " " in label else f"{name} {label}": path for label, path in files.items()}
        return found

    def recent_switches(self, wanted: EntryFilter, began_before: float) -> list[dict[str, Any]]:
        now, book = trio.current_time(), self._context.switches
        book.look(None, {switch.target: switch.since for switch in self._view.switches()}, "", now)
        return book.all(wanted, began_before, now)

    def series(self, query: SeriesQuery) -> dict[str, Any]:
        series, now = self._context.history.series, time.time()
        earliest = series.earliest(now, query.step)
        begin = earliest if query.begin is None else query.begin
        if begin < earliest - 2 * query.step:
            steps = " or ask with step=10" if query.step == 1 else ""
            told = f"steps of {query.step} s are kept since {earliest:.0f}, not since {begin:.0f}"
            raise BadRequest(f"from: {told}; begin there{steps}", field="from", earliest=earliest)
        fields = query.fields or FIELDS
        return series.read(now, begin, query.end, query.step, fields, query.model) | {"now": round(now, 3)}

    def usage(self, days: int, key: str | None, model: str | None) -> dict[str, Any]:
        return {"usage": self._context.history.usage.read(time.time(), days, key, model), "kept_days": KEPT_DAYS}

    # What is ordered

    def switch(self, name: str, by: str = "") -> trio.MemoryReceiveChannel[dict[str, Any]]:
        now, number = trio.current_time(), self._context.next_number()
        progress = self._context.orders.open_switch(number, name, now, by)
        self._record_order(name, "switch", by)
        self._context.tell(SwitchAsked(now, number, name))
        return progress

    def hold(self, name: str, seconds: float | None, by: str = "") -> trio.MemoryReceiveChannel[dict[str, Any]]:
        now, number = trio.current_time(), self._context.next_number()
        progress = self._context.orders.open_switch(number, name, now, by)
        self._record_order(name, "hold" if seconds is None else f"hold for {show_duration(seconds)}", by)
        self._context.tell(HoldAsked(now, number, name, inf if seconds is None else now + seconds))
        return progress

    def unhold(self, name: str, by: str = "") -> None:
        if self._view.group(name, trio.current_time()).held_for is None:
            raise NotHeld(f"no operator holds {name}; muxctl status shows which models are held", model=name)
        self._record_order(name, "unhold", by)
        self._context.tell(HoldEnded(trio.current_time(), name))

    def lend(self, terms: LoanTerms, by: str = "") -> tuple[int, trio.MemoryReceiveChannel[dict[str, Any]]]:
        return self._context.loans.ask(terms, by)

    def attend_loan(self, number: int) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self._context.loans.attend(number)

    async def borrow(self, number: int, borrower: Borrower) -> None:
        await self._context.loans.borrow(number, borrower)

    def leave_loan(self, number: int) -> None:
        self._context.loans.leave(number)

    def end_yields(self) -> int:
        return self._context.loans.end_yields()

    def order(
        self,
        name: str,
        verb: Verb,
        *,
        now: bool = False,
        level: int | None = None,
        replicas: int = 0,
        by: str = "",
    ) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        time, number = trio.current_time(), self._context.next_number()
        progress = self._context.orders.open_order(number, name, time, by)
        to = f" to {replicas}" if verb is Verb.SCALE else ""
        self._record_order(name, f"{verb}{to}" if level is None else f"{verb} at level {level}", by)
        self._context.tell(OrderGiven(time, number, name, verb, now, level, replicas=replicas))
        return progress

    def validate(
        self, name: str, levels: tuple[int, ...], cycles: int, by: str = ""
    ) -> tuple[int, trio.MemoryReceiveChannel[dict[str, Any]]]:
        time, number = trio.current_time(), self._context.next_number()
        progress = self._context.orders.open_order(number, name, time, by)
        self._record_order(name, f"validate at levels {', '.join(map(str, levels))}" if levels else "validate", by)
        self._context.figures.begin(name)
        self._context.tell(OrderGiven(time, number, name, Verb.VALIDATE, levels=levels, cycles=cycles))
        return number, progress

    def end_validation(self, name: str, number: int) -> None:
        by = self._context.orders.operator(number)
        if self._context.orders.leave(number):
            self._record_order(name, "an end of its validation", by)
            self._context.tell(ValidationEnded(trio.current_time(), number, name))

    def _record_order(self, name: str, order: str, by: str) -> None:
        self._journal.record("operator", model=name, order=order, by=by or None)
        log.info("%s: an operator%s ordered %s", name, f" ({by})" if by else "", order)

    def make_console_link(self) -> dict[str, Any]:
        ui = self._reloader.config.ui
        if ui.listen is None:
            return {"url": None, "expires_s": None}
        where = f"{url_host(ui.listen.host)}:{ui.listen.port}"
        return {"url": f"http://{where}/ui/api/enter?token={self._console_links.make()}", "expires_s": LIFE}

    def redeem_console_link(self, token: str) -> None:
        self._console_links.redeem(token)

    async def reload(self, *, dry_run: bool = False, by: str = "") -> dict[str, Any]:
        try:
            return await self._reloader.reload(dry_run=dry_run, by=by)
        except MuxdError as error:
            if not dry_run:
                self._reloader.failed = {"time": round(time.time(), 3), "reason": error.message}
                self._journal.record("reload_failed", reason=error.message, code=error.code, by=by or None)
            raise

    def open_session(self) -> ProxySession:
        return self._context.sessions.open()
