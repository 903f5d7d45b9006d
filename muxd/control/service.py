"""The methods of the supervisor that the control socket's server calls."""

from pathlib import Path
from typing import Any, Protocol

import trio

from muxd.borrowers import Borrower
from muxd.core.events import Verb
from muxd.core.spec import LoanTerms
from muxd.history.journal import ALL, EntryFilter
from muxd.history.series import SeriesQuery
from muxd.protocol import MuxdMessage, ProxyMessage, ToldError

Message = dict[str, Any]  # one JSON object


class Session(Protocol):
    """muxd's end of one proxy's session."""

    def take(self, message: ProxyMessage) -> bool:
        """Do what the proxy says; raises BadRequest for what it may not say now.

        Return whether it is done with that: no task has to go on for it.
        """
        ...

    async def messages(self) -> list[MuxdMessage]:
        """Wait until there is something to tell the proxy, and return it; an empty list: muxd ends the session."""
        ...

    def refuse(self, error: ToldError) -> None:
        """Tell the proxy why its session ends, and end it once that and all before it is said."""
        ...

    def close(self) -> None:
        """End every lease of the session: its proxy is gone."""
        ...


class ControlService(Protocol):
    """The supervisor, as the control socket's server sees it.

    Only three methods wait: `reload` for the disk, `metrics` for the engines, and `prepare_handover` for both.
    Every method may raise a MuxdError, which is then sent as the answer.
    """

    def version(self) -> Message: ...

    def status(self) -> Message: ...

    def proxy_settings(self) -> Message:
        """Return the part of the running configuration that a proxy needs: see muxd/config/proxy_settings.py."""
        ...

    async def metrics(self) -> bytes:
        """Return the metrics of muxd and of the awake engines, in Prometheus' text format; takes up to 2.5 seconds."""
        ...

    def resolve(self, name: str) -> str:
        """Return the name of the model that has this name or served name; raises ModelNotFound."""
        ...

    def model_status(self, name: str) -> Message: ...

    async def requests(self, states: frozenset[str], wanted: EntryFilter) -> Message:
        """Return the requests in these states, or in all; of those that have ended the ones that are wanted.

        Takes up to a second where a proxy does not answer.
        """
        ...

    def ended_requests(self, after: int | None, wanted: EntryFilter) -> trio.MemoryReceiveChannel[Message]:
        """Return the requests that have ended, and those that will, one entry each; raises BadRequest."""
        ...

    async def cancel_request(self, id: str, by: str) -> Message:
        """End the requests with this id, for the operator `by`; raises RequestNotFound."""
        ...

    def recent_switches(self, wanted: EntryFilter, began_before: float) -> list[Message]:
        """Return the last switches, under way or over; of a model those by which it came or left."""
        ...

    def series(self, query: SeriesQuery) -> Message:
        """Return figures over time by model; raises BadRequest for a beginning that is not kept any more."""
        ...

    def usage(self, days: int, key: str | None, model: str | None) -> Message:
        """Return what each key took of each model on each of the last days."""
        ...

    def switch(self, name: str, by: str = "") -> trio.MemoryReceiveChannel[Message]:
        """Begin a switch to a model, for the operator `by`, and return its progress.

        The channel closes after `ready` or `failed`.  Closing the channel early does not cancel the switch.
        """
        ...

    def hold(self, name: str, seconds: float | None, by: str = "") -> trio.MemoryReceiveChannel[Message]:
        """Begin a switch to a model as `switch` does, and keep it on its GPUs for so long; None: until `unhold`."""
        ...

    def unhold(self, name: str, by: str = "") -> None:
        """Let a model go that an operator holds; raises NotHeld."""
        ...

    def lend(self, terms: LoanTerms, by: str = "") -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        """Ask for GPUs; return the loan's number, and a channel: `lent` or `failed`, `recalled`; closed at its end."""
        ...

    def attend_loan(self, number: int) -> trio.MemoryReceiveChannel[Message]:
        """Listen to a loan that was granted; raises LoanNotFound."""
        ...

    async def borrow(self, number: int, borrower: Borrower) -> None:
        """Say to whom the GPUs of a loan are lent; raises LoanNotFound."""
        ...

    def leave_loan(self, number: int) -> None:
        """End a loan that has no borrower, as its asker is gone; does nothing for any other."""
        ...

    def end_yields(self) -> int:
        """End the loans without a borrower, and return how many there were."""
        ...

    def order(
        self,
        name: str,
        verb: Verb,
        *,
        now: bool = False,
        level: int | None = None,
        replicas: int = 0,
        by: str = "",
    ) -> trio.MemoryReceiveChannel[Message]:
        """Give an order for a model and return its progress, a channel that closes after `done` or `failed`.

        `now` does not wait for requests in flight.  Closing the channel early does not take the order back.
        """
        ...

    def validate(
        self, name: str, levels: tuple[int, ...], cycles: int, by: str = ""
    ) -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        """Have a model sleep and wake at these levels, or all that it has; return a number, and what is found.

        The channel closes after `done` or `failed`.  `end_validation` is to be called with the number when who ordered
        it is gone.
        """
        ...

    def end_validation(self, name: str, number: int) -> None:
        """End a validation that nobody is told of any more; does nothing where it is over."""
        ...

    async def reload(self, *, dry_run: bool = False, by: str = "") -> Message:
        """Read the configuration again and take it over, or with `dry_run` only return what that would change.

        Raises ConfigError, NeedsRestart or ShuttingDown, each with nothing changed.
        """
        ...

    def open_session(self) -> Session:
        """Open the session of a proxy that has connected; its leases last until `close`."""
        ...

    def events(
        self, after: int | None, *, follow: bool, wanted: EntryFilter = ALL
    ) -> trio.MemoryReceiveChannel[Message]:
        """Return a channel of the events after the one with id `after`, and with `follow` of those to come.

        The channel is bounded: a reader that is too slow gets a `gap` entry that says how many events it missed.
        Without `follow` the channel closes after the last event.
        """
        ...

    def log_of(self, name: str) -> tuple[dict[str, Path], Message | None]:
        """Return the newest log file of `stdout` and of `stderr`, and what the disk refused of both, if anything.

        `name` is a model or, where no model has that name, `muxd`, `proxy`, `router` for all routers, or `ui` for the
        console.  Raises ModelNotFound.
        """
        ...

    def make_console_link(self) -> Message:
        """Make a one-time link to the console; its `url` is None where there is no console."""
        ...

    def redeem_console_link(self, token: str) -> None:
        """Use a link up; raises LinkUsed."""
        ...

    def all_logs(self) -> dict[str, Path]:
        """Return the newest log files of all models and of muxd itself, by worker and stream: "qwen stdout"."""
        ...

    def shutdown(self, *, by: str = "") -> None: ...

    async def prepare_handover(self, *, upgrade: bool, now: bool) -> None:
        """Wait until muxd may leave its workers as they are, to the muxd that it becomes or that is started next.

        Raises HandoverRefused, with nothing changed.  `leave` must follow.
        """
        ...

    def leave(self) -> None: ...
