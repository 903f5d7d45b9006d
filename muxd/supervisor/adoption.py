"""The workers that an earlier muxd has left running: taken over as they are, or ended."""

import logging

import trio
from msgspec.structs import replace

from muxd.core.events import AdoptedWorker, LeaseEnded, LeaseReclaimed
from muxd.core.spec import group_of
from muxd.saved_state import WorkerRecord
from muxd.workers import LeftWorkers, RouterRunner, Runner

from .context import SupervisorContext

log = logging.getLogger(__name__)

#: Seconds for which a worker that was taken over ready counts as busy: its proxies try every quarter of a second to
#: tell what they have in flight there.
GRACE = 3.0


async def take_over_workers(
    context: SupervisorContext, left: LeftWorkers, nursery: trio.Nursery
) -> tuple[AdoptedWorker, ...]:
    """Go on with these workers' processes in tasks of `nursery`; return those that are as the state file says.

    The others are ended.  Raises ModelStuck where one survives SIGKILL.
    """
    found: dict[str, AdoptedWorker] = {}

    async def take_over(name: str) -> None:
        record = context.workers.state.state.workers[name]
        live = await context.runners[name].take_over(left[name])
        if live is not None:
            found[name] = _adopted(context.runners[name], record)
            log.info("%s: taken over from an earlier muxd, %s", name, _rest(record))
            nursery.start_soon(live, name=f"life of {name}")

    async with trio.open_nursery() as attempts:
        for name in left:
            attempts.start_soon(take_over, name, name=f"adoption of {name}")
    for name in found:
        if isinstance(runner := context.runners[name], RouterRunner):
            serving = [w.url for w in found.values() if _is_ready(w) and w.worker != name and _is_beside(w, name)]
            servers = context.runners.routed(group_of(name), serving)
            found[name] = replace(found[name], routed=await runner.routed_of(servers))
    return tuple(found[name] for name in left if name in found)


def _rest(record: WorkerRecord) -> str:
    if record.waits:
        return "in standby"
    return "ready" if record.level is None else "asleep"


def _is_ready(worker: AdoptedWorker) -> bool:
    return worker.level is None and not worker.waits


def _is_beside(worker: AdoptedWorker, other: str) -> bool:
    return group_of(worker.worker) == group_of(other)


def _adopted(runner: Runner, record: WorkerRecord) -> AdoptedWorker:
    kept = record.memory.kept
    return AdoptedWorker(
        worker=runner.model.name,
        url=runner.url,
        level=record.level,
        waits=record.waits,
        gate_size=record.gate_size,
        kept=kept // max(1, runner.model.gpus_each) if kept is not None else None,
        gpus=tuple(record.gpus),
        launched=record.launched,
        unproved=record.proof is None,
        peak=record.peak,
    )


def hold_for_proxies(context: SupervisorContext, adopted: tuple[AdoptedWorker, ...]) -> list[int]:
    """Take a lease on each ready model in the place of its proxies, so that it counts as busy; return the leases."""
    now, held = trio.current_time(), []
    urls = {group_of(w.worker): w.url for w in adopted if _is_ready(w)}  # of several workers the router's: it is last
    for name, url in urls.items():
        held.append(context.next_number())
        context.tell(LeaseReclaimed(now, held[-1], name, url, in_flight=1))
        context.sessions.places.close(name, GRACE)
    return held


async def let_go(context: SupervisorContext, held: list[int]) -> None:
    """End these leases once the proxies have had the time to re-claim their own."""
    await trio.sleep(GRACE)
    for number in held:
        context.tell(LeaseEnded(trio.current_time(), number))
