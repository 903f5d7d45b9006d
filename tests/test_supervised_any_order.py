"""Random orders, deaths, faults of engines, reloads and loans among clients, on a pretend host: nobody waits for ever.

`tests/core` does this with the core alone; here the supervisor's loop, the workers' lives, the state file and the
reload take part, each step at a moment of its own on the test's clock.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import inf
from signal import SIGKILL

import pytest
import trio

from muxd.children import ExitRecord
from muxd.config import Memory, Model
from muxd.core.events import Verb
from muxd.core.spec import LoanTerms
from muxd.errors import MuxdError

from .fakes import GiB, a_model
from .faults.oracles import check_moves
from .one_supervisor import Lines, OneSupervisor, one_supervisor, type_of
from .seeds import seeds

BOUNDS = {
    "drain_timeout": 5.0,
    "start_timeout": 20.0,
    "stop_timeout": 2.0,
    "call_timeout": 3.0,
    "switch_timeout": 900.0,
}
QUICK = {"restart_limit": 99, "cool_down": 5.0, "stable_after": 0.0, "gpu_release_timeout": 5.0}


def sized(weights: int, kv: int) -> dict[str, object]:
    return {"memory": Memory(weights * GiB, kv * GiB), **BOUNDS, **QUICK}


#: One at a time; on two GPUs, one model on both; with a ladder and a process in standby; several at once, by size.
HOSTS: list[list[Model]] = [
    [a_model(name, sleep_level=level, **BOUNDS, **QUICK) for name, level in zip("abc", (1, 2, 3), strict=True)],
    [
        *(a_model(name, sleep_level=2, gpus=(gpu,), **BOUNDS, **QUICK) for name, gpu in zip("abc", "001", strict=True)),
        a_model("d", sleep_level=1, gpus=("0", "1"), **BOUNDS, **QUICK),
    ],
    [a_model("a", idle_timeout=3.0, **BOUNDS, **QUICK), a_model("b", sleep_level=3, standby=True, **BOUNDS, **QUICK)],
    [
        a_model("a", sleep_level=1, **sized(30, 10)),
        a_model("b", sleep_level=2, **sized(30, 10)),
        a_model("c", sleep_level=0, **sized(10, 20)),
        a_model("d", sleep_level=1, **sized(60, 10)),
    ],
]

#: What is done, and how much more often than the rarest.
SELDOM = ("start", "stop", "restart", "hold", "unhold", "unload", "validate", "lend", "fault", "pace")
DEEDS = {"switch": 3, "sleep": 2, "reload": 2, "kill": 2, "mend": 2} | dict.fromkeys(SELDOM, 1)


class World:
    """Clients and operators of one muxd, who do everything by chance."""

    def __init__(self, muxd: OneSupervisor, draw: random.Random, nursery: trio.Nursery) -> None:
        self.muxd, self.draw, self.nursery = muxd, draw, nursery
        self.configured = muxd.host.wanted
        self.names = [model.name for model in self.configured.models]
        self.is_over = False
        for model in self.configured.models:
            if model.memory is not None:
                muxd.host.servers[model.name].awake = model.memory.weights + model.memory.kv

    async def pause(self) -> None:
        """Nothing, some turns of the loop, or up to six seconds."""
        if self.draw.random() < 0.3:
            for _ in range(self.draw.randrange(12)):
                await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self.draw.random() * self.draw.choice((0.002, 0.1, 1, 6)))

    async def ask(self) -> None:
        """A client asks, waits or leaves, is served, and finishes when its lease is taken, or later."""
        while not self.is_over:
            await self.pause()
            holder = self.muxd.wants(self.draw.choice(self.names))
            with trio.move_on_after(self.draw.choice((0, 0.05, 3, inf, inf, inf))), suppress(AssertionError):
                granted = await holder.told("granted", "failed")
                if type_of(granted) == "granted":
                    holder.reports(1)
                    with trio.move_on_after(self.draw.random() * 3):
                        await holder.told("revoked")
                        await trio.sleep(self.draw.random() * self.draw.choice((0.01, 1, 8)))
                    holder.reports(0)
            holder.close()

    async def operate(self) -> None:
        while not self.is_over:
            await self.pause()
            with suppress(MuxdError):
                await self.do(*self.draw.choices(list(DEEDS), list(DEEDS.values())))

    async def do(self, deed: str) -> None:
        service, draw = self.muxd.service, self.draw
        name = service.resolve(draw.choice(self.names))
        behaviour = self.muxd.host.servers[name]
        match deed:
            case "switch":
                self.watch(service.switch(name))
            case "hold":
                self.watch(service.hold(name, draw.choice((1.0, 5.0))))
            case "unhold":
                service.unhold(name)
            case "start" | "stop" | "restart":
                self.watch(service.order(name, Verb(deed), now=deed != "start" and draw.random() < 0.3))
            case "sleep":
                self.watch(service.order(name, Verb.SLEEP, level=draw.choice((None, 0, 1, 2, 3))))
            case "unload":
                await self.muxd.lets_go(name)
            case "validate":
                number, lines = service.validate(name, (), 1)
                self.watch(lines)
                if draw.random() < 0.4:
                    await self.pause()
                    service.end_validation(name, number)
            case "lend":
                gpus = frozenset({draw.choice(self.muxd.host.gpus.ids)})
                number, _ = service.lend(LoanTerms(gpus, trio.current_time() + draw.choice((1.0, 5.0))))
                await self.pause()
                service.leave_loan(number)
            case "reload":
                self.muxd.host.wanted = replace(self.configured, models=tuple(self.changed()))
                await service.reload()
            case "kill":
                if alive := [child for child in self.muxd.host.children.all if not child.has_ended]:
                    draw.choice(alive).end(ExitRecord(signal=SIGKILL))
            case "fault":
                call = draw.choice(("pause", "release", "resume", "reload", "continue", "/v1/loads", "/ready"))
                behaviour.faults[call] = draw.choice(("hang", "break", "die", (500, "no")))
            case "mend":
                behaviour.faults.clear()
            case "pace":
                behaviour.load_time, behaviour.call_time = draw.choice((0.2, 1, 3)), draw.choice((0, 0.05, 1))
                behaviour.stop_time = draw.choice((0, 0.1, 1, inf))

    def changed(self) -> Iterator[Model]:
        """The models as another configuration has them; there is always the first."""
        for model in self.configured.models:
            chance = self.draw.random()
            if chance < 0.15 and model.name != "a":
                continue
            yield replace(model, env={"MARK": str(chance)}) if chance < 0.4 else model

    def watch(self, lines: Lines) -> None:
        """See that an order ends, one way or the other."""

        async def until_over() -> None:
            with trio.fail_after(1500):
                async for _ in lines:
                    pass

        self.nursery.start_soon(until_over)

    async def comes_to_rest(self) -> None:
        """Whatever was done: with what is configured and lets itself be loaded, every model answers again."""
        for name in self.names:
            behaviour = self.muxd.host.servers[name]
            behaviour.faults.clear()
            behaviour.stop_time = 0.1
        self.muxd.host.wanted = self.configured
        await self.muxd.service.reload()
        for name in self.names:
            with suppress(MuxdError):
                self.muxd.service.unhold(name)
            self.watch(self.muxd.service.order(name, Verb.START))
        for name in self.names:
            with trio.fail_after(900):
                while not await self.answers(name):
                    await trio.sleep(1)

    async def answers(self, name: str) -> bool:
        with suppress(AssertionError):
            return bool(await self.muxd.serves(name))
        return False


@pytest.mark.parametrize("host", range(len(HOSTS)))
async def test_whatever_is_done_every_order_ends_and_every_model_comes_back(autojump_clock, tmp_path, caplog, host):
    for seed in seeds(0, 40):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        async with one_supervisor(folder, *HOSTS[host]) as muxd, trio.open_nursery() as nursery:
            world = World(muxd, draw, nursery)
            for _ in range(draw.choice((1, 3))):
                nursery.start_soon(world.ask)
            async with trio.open_nursery() as operators:
                for _ in range(draw.choice((1, 2))):
                    operators.start_soon(world.operate)
                await trio.sleep(draw.choice((10, 40)))
                world.is_over = True
            await world.comes_to_rest()
            check_moves(await muxd.moves())
            nursery.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.exc_info], "nothing unforeseen"
