"""The places of every model's concurrency_limit, dealt out to the proxies that hold leases; see `core/places`."""

from collections.abc import Callable

import trio

from muxd.core.places import ROUND, ModelPlaces


class PlaceDealer:
    """Who has how many places, by the core's numbers of leases; `tell` has a holder told of another number."""

    def __init__(self, limit_of: Callable[[str], int], tell: Callable[[int, int | None, int], None]) -> None:
        """Begin without a lease; `limit_of` returns a model's limit, 0 for none."""
        self._limit_of = limit_of
        self._tell = tell
        self._models: dict[str, ModelPlaces] = {}
        self._by_lease: dict[int, ModelPlaces] = {}
        self._is_short = trio.Event()

    def join(self, lease: int, model: str, wanted: int, used: int | None = 0) -> None:
        """Count a lease that was asked for, or re-claimed with so many places in use; None: it had no limit."""
        places = self._of(model)
        places.join(lease, wanted, used)
        self._by_lease[lease] = places

    def _of(self, model: str) -> ModelPlaces:
        places = self._models.get(model)
        if places is None:
            places = self._models[model] = ModelPlaces(self._limit_of(model))
        return places

    def grant(self, lease: int) -> tuple[int | None, int]:
        """Return how many places a lease that is granted has, and the deal's number; tell others that have fewer."""
        places = self._by_lease[lease]
        places.grant(lease)
        self._deal(places, but=lease)
        return places.told(lease)

    def report(self, lease: int, wanted: int, used: int, deal: int) -> bool:
        """Note what a holder wants and uses; return whether nobody is told anything for that."""
        places = self._by_lease[lease]
        places.report(lease, wanted, used, deal)
        if not places.limit:
            return True
        self._deal(places)
        return False

    def leave(self, lease: int, *, is_lost: bool = False) -> None:
        """Give the places of a lease that is over to others, those of a lost proxy a moment later."""
        places = self._by_lease.pop(lease)
        places.leave(lease, lost_at=trio.current_time() if is_lost else None)
        self._deal(places)

    def renew(self) -> None:
        """Deal by the limits of a new configuration."""
        for model, places in self._models.items():
            places.limit = self._limit_of(model)
            self._deal(places)

    def close(self, model: str, seconds: float) -> None:
        """Give nobody more places of a model for so long: who had them under an earlier muxd has yet to tell."""
        self._of(model).close(trio.current_time() + seconds)
        self._is_short.set()

    async def go_round(self) -> None:
        """Deal again every ROUND seconds while somebody wants a place and has none, until cancelled."""
        while True:
            await self._is_short.wait()
            self._is_short = trio.Event()
            await trio.sleep(ROUND)
            for places in self._models.values():
                self._deal(places)

    def _deal(self, places: ModelPlaces, but: int | None = None) -> None:
        for lease in places.deal(trio.current_time()):
            if lease != but:
                self._tell(lease, *places.told(lease))
        if places.limit and places.is_short():
            self._is_short.set()
