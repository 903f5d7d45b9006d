"""What the parts of the supervisor share, made once by the loop."""

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from muxd.config import Config
from muxd.core.events import Event
from muxd.core.view import CoreView
from muxd.history import History
from muxd.history.journal import Journal
from muxd.log_losses import LogTeller, Losses
from muxd.workers import WorkerContext

from .gpu_loans import GpuLoans
from .holds import HeldModels
from .measurements import Measurements
from .order_streams import OrderStreams
from .runner_set import RunnerSet
from .sessions import ProxySessions
from .switch_book import SwitchBook
from .validations import CycleFigures
from .weight_files import WeightReader


class ProxyView(Protocol):
    @property
    def log_teller(self) -> LogTeller | None:
        """Return the source of the proxy's log, or None where muxd does not run the proxy."""
        ...

    def status(self) -> dict[str, Any]: ...

    def reconfigure(self, config: Config) -> None:
        """Set the configuration that the next proxy is started with."""
        ...


class SupervisorContext(Struct, frozen=True):
    """The parts that several modules of the supervisor use; `view` is all that they see of the core."""

    tell: Callable[[Event], None]
    view: CoreView
    workers: WorkerContext
    runners: RunnerSet
    next_number: Callable[[], int]  # of a switch, an order, a lease or an unload
    orders: OrderStreams
    sessions: ProxySessions
    journal: Journal
    losses: Losses
    measurements: Measurements
    holds: HeldModels
    loans: GpuLoans
    figures: CycleFigures
    switches: SwitchBook
    history: History
    weights: WeightReader
    proxy: ProxyView
