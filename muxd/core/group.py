"""A group: what clients lease, an operator orders, and a switch is about.

Most groups have one worker, and its name.  A group of several has workers that serve, and a router in front of them.
It is one holder: it is woken, put to sleep and evicted whole.  Its state follows from those of its members (`quorum`),
so that the death of one among several costs nobody a lease; a worker that died is started again beside those that serve
on.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from math import inf

from . import policy
from .answer_book import AnswerBook
from .cost import Cost
from .events import Verb
from .lease import Lease
from .ledger import GpuId, in_order
from .order import Order
from .spec import GroupSpec, Role, Rung
from .states import DOWN, LEAVING, LOST, UP, WorkerState
from .validation import Validation
from .worker import Worker

#: So many of the last times that a group was wanted tell how often it is: LRU-K (O'Neil et al., SIGMOD 1993).
USES = 8

_SLEEPING = (WorkerState.FALLING_ASLEEP, WorkerState.ASLEEP)
_NO_GPUS: frozenset[GpuId] = frozenset()


class Group:
    """One model's workers as one holder of leases, orders and GPUs."""

    def __init__(self, spec: GroupSpec, now: float = 0.0) -> None:
        self.spec = spec
        self.name = spec.name
        self.members: tuple[Worker, ...] = ()
        self.place_in_order = 0  # among all groups, as the configuration has them
        self.changes = 0  # of anything that is found of it, so far; see HostBooks.touch
        self.state = WorkerState.UNLOADED  # derived; see HostState.move
        self.since = now  # when the state last changed
        self.granted: dict[int, Lease] = {}
        self.waiting: dict[int, Lease] = {}
        self.idle = True  # nobody who was let in has requests: by its leases, as is the next; see note_leases
        self.wanted = False  # requests wait for it
        self.is_batch = False  # likewise, all of them batch
        self.in_flight = 0  # requests of those who were let in
        self.weight = 0.0  # of the requests that wait, each counted 2 ** priority times, by its own priority
        self.waits_since = inf  # when the oldest waiting request came; inf: none waits
        self.contends_since = inf  # likewise, but the oldest that is no batch, if there is one: it waits for its turn
        self.awake_since = -inf  # when it last came to its GPUs
        self.is_sheltered = False  # it was used so lately that it leaves for no other group; see idling
        self.is_exposed = False  # an operator switches to another group: meanwhile it is not sheltered
        self.held_until: float | None = None  # an operator holds it as if it were pinned, until then; None: nobody does
        self.is_put_away = False  # an operator has put it to sleep, and nobody has wanted it since
        self.keep_alive: float | None = None  # seconds after its last use in which it stays awake, as a client asked
        self.keep_alive_as_of = -inf  # when that was
        self.idle_since: float | None = None  # its last answer ended then; None: requests run or wait, or never did
        self.gaps: deque[float] = deque(maxlen=policy.GAPS)  # seconds from an answer to the next request
        self.uses: deque[float] = deque(maxlen=USES)  # when requests last came to it while it was idle
        self.answers = AnswerBook()
        self.oldest_since = inf  # since when its oldest answer is under way; inf: none is, or nobody knows
        self.drain_deadline = inf
        self.drained_for = ("", "")  # the reason of its last drain, and the message to the leases' holders
        self.order: Order | None = None
        self.stopped_by_operator = False  # it stays down until a start
        self.is_target = False  # of a switch: it comes to its GPUs
        self.is_router_changed = False  # by a configuration, for which its router must be started anew
        self.retired = False  # the configuration has it no more: it goes as soon as it can
        self.pending_spec: GroupSpec | None = None  # what it is to be once its processes have ended
        self.told: tuple[str, ...] | None = None  # URLs of the members that its router was last told; None: none yet
        self.routed: frozenset[str] = frozenset()  # URLs of those that the router is known to pass requests to
        self.listed: frozenset[str] = frozenset()  # likewise, with those that it was told to leave out, and has not yet
        self._take_members(now)
        self.let_spare(self.serving[spec.replicas or self.most :], now)

    def _take_members(self, now: float) -> None:
        """Make the workers of the spec; one that was there before stays the same, with another configuration."""
        former = {worker.name: worker for worker in self.members}
        members = []
        for spec in self.spec.workers:
            worker = former.get(spec.name)
            if worker is None:
                worker = Worker(spec, self.name, since=now)
            else:
                worker.renew(spec)
            members.append(worker)
        self.members = tuple(members)
        self._note_members()
        self._spread()

    def _spread(self) -> None:
        """Take for now other GPUs for each worker for which any of several will do."""
        for number, worker in enumerate(self.serving):
            gpus, count = in_order(worker.spec.gpus), worker.spec.any_of
            if count and gpus:
                worker.gpus = frozenset(gpus[(number * count + place) % len(gpus)] for place in range(count))
        self._note_gpus()

    def _note_members(self) -> None:
        self.router = next((w for w in self.members if w.is_router), None)
        self.serving = tuple(w for w in self.members if not w.is_router)
        self._note_enlisted()

    def _note_enlisted(self) -> None:
        """Note who of those that can serve is to: all but those that the group does without for now."""
        self.enlisted = tuple(w for w in self.serving if not w.is_spare)
        by_role = (tuple(w for w in self.members if w.spec.role is role and not w.is_spare) for role in Role)
        self.roles = [workers for workers in by_role if workers]
        self._note_gpus()

    def _note_gpus(self) -> None:
        self.gpus: frozenset[GpuId] = frozenset().union(*(w.gpus for w in self.enlisted))

    @property
    def is_placed(self) -> bool:
        """Say whether the group's GPUs are settled: named, or chosen for processes that live or are about to.

        So are those of a group that is validated, between two processes too: they are kept for it.
        """
        worker = self.serving[0]
        if not worker.spec.any_of or self.is_target or worker.state not in DOWN:
            return True
        return not self.is_down or self.keeps_place or self.is_validated

    @property
    def may_be_on(self) -> frozenset[GpuId]:
        """Return the GPUs to which the group may come: its own, or where it is not placed, all that will do."""
        return self.gpus if self.is_placed else self.serving[0].spec.gpus

    @property
    def may_be_on_anew(self) -> frozenset[GpuId]:
        """Return the GPUs to which new processes of a sleeper could come instead; none for who must come to its own."""
        if self.state is not WorkerState.ASLEEP or len(self.serving) > 1 or not self.serving[0].spec.any_of:
            return _NO_GPUS
        return self.serving[0].spec.gpus

    def place(self, gpus: frozenset[GpuId]) -> None:
        """Let the only worker of a group that is not placed run on these GPUs when it comes."""
        self.serving[0].gpus = self.gpus = gpus

    def place_each(self, places: Mapping[str, frozenset[GpuId]]) -> None:
        """Let workers, by name, run on these GPUs when they come."""
        for worker in self.serving:
            worker.gpus = places.get(worker.name, worker.gpus)
        self._note_gpus()

    # How many serve

    @property
    def is_scalable(self) -> bool:
        """Say whether there can be more or fewer of its replicas."""
        is_made_of_replicas = len(self.serving) > 1 and self.serving[0].spec.role is Role.SERVE
        return self.spec.scaling is not None or is_made_of_replicas or any(worker.retired for worker in self.serving)

    @property
    def most(self) -> int:
        """Return how many replicas it can have: one for each of its workers."""
        return sum(not worker.retired for worker in self.serving)

    @property
    def least(self) -> int:
        """Return how many replicas it has at least while it is on its GPUs."""
        return max(1, self.spec.scaling.least) if self.spec.scaling is not None else 1

    @property
    def at_first(self) -> int:
        """Return with how many replicas it comes to its GPUs at most."""
        return max(self.least, self.spec.replicas or self.most)

    @property
    def answering(self) -> tuple[Worker, ...]:
        """Return the workers to which requests come now."""
        ready = (worker for worker in self.enlisted if worker.state is WorkerState.READY)
        return tuple(worker for worker in ready if self.router is None or worker.url in self.routed)

    def answers_with(self, names: Collection[str]) -> bool:
        """Say whether of each role one of these workers is among those to which requests come now."""
        return all(any(w.name in names for w in self.answering if w in role) for role in self.serving_roles)

    @property
    def serving_roles(self) -> list[tuple[Worker, ...]]:
        """Return the workers of each role but the router's, without those that the group does without."""
        return [workers for workers in self.roles if not workers[0].is_router]

    @property
    def spares(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.serving if worker.is_spare)

    @property
    def has_gate(self) -> bool:
        """Say whether the next process of its only worker is to wait at a gate, or does so yet."""
        worker = self.members[0]
        return len(self.members) == 1 and (worker.spec.standby is not None or worker.is_ahead)

    def enlist(self, workers: Iterable[Worker]) -> None:
        """Let these of the spare workers serve with the others."""
        for worker in workers:
            worker.is_spare = False
        self._note_enlisted()

    def let_spare(self, workers: Iterable[Worker], deadline: float) -> None:
        """Do without these workers; what they have in flight has until the deadline."""
        for worker in workers:
            worker.spare(deadline)
        self._note_enlisted()

    def renew(self, now: float) -> None:
        """Let the pending spec hold, and forget what was learned of processes of the former one."""
        assert self.pending_spec is not None
        self.spec, self.pending_spec = self.pending_spec, None
        self.gaps.clear()
        self.answers = AnswerBook()
        self._take_members(now)
        self.enlist(self.serving)
        self.let_spare(self.serving[self.spec.replicas or self.most :], now)

    def resize(self, spec: GroupSpec, now: float) -> None:
        """Take over a configuration with other workers: new ones are to come, and those that are gone to go."""
        former = {worker.name: worker for worker in self.members}
        wanted = [former.get(each.name) or Worker(each, self.name, since=now) for each in spec.workers]
        for worker, of_worker in zip(wanted, spec.workers, strict=True):
            former.pop(worker.name, None)
            worker.retired = False
            worker.update(of_worker)
        for worker in former.values():
            worker.retired = True
        *serving, router = wanted
        self.spec, self.members = spec, (*serving, *former.values(), router)
        self._note_members()
        self.let_spare(former.values(), now + spec.drain_timeout)

    def dismiss(self, workers: Iterable[Worker]) -> None:
        """Forget workers that the configuration has no more, and that have ended."""
        names = {worker.name for worker in workers}
        self.members = tuple(worker for worker in self.members if worker.name not in names)
        self._note_members()

    def update(self, spec: GroupSpec) -> None:
        """Take over a configuration that needs no other processes."""
        self.spec = spec
        for worker, of_worker in zip(self.members, spec.workers, strict=True):
            worker.update(of_worker)
        self._note_members()

    # State

    @property
    def is_down(self) -> bool:
        """Say whether no process of the group is left."""
        return self.members[0].is_down if len(self.members) == 1 else all(worker.is_down for worker in self.members)

    @property
    def shown_state(self) -> str:
        """Return the state as users see it: "stopped" for a group without a process that an operator stopped."""
        return "stopped" if self.stopped_by_operator and self.state is WorkerState.UNLOADED else self.state

    @property
    def reason(self) -> str:
        """Return why the group is in its state, where that needs saying; of several members each with its name."""
        reasons = {worker.reason for worker in self.enlisted}
        if len(reasons) == 1:
            return reasons.pop()
        members = (w for w in self.members if w.reason and not w.is_spare)
        said = (f"{w.name} is {w.state.replace('_', ' ')}: {w.reason}" for w in members)
        return "; ".join(said)

    @property
    def lost_role(self) -> tuple[Worker, ...]:
        """Return the workers of a role that nobody can fill: each has failed or is stuck; () where there is none."""
        return next((workers for workers in self.roles if all(w.state in LOST for w in workers)), ())

    def stuck_on(self, gpus: frozenset[GpuId]) -> Worker | None:
        """Return a member that is stuck with memory of one of the GPUs."""
        stuck = (w for w in self.serving if w.state is WorkerState.STUCK and not gpus.isdisjoint(w.gpus))
        return next(stuck, None)

    @property
    def retry_at(self) -> float:
        """Return when the group may be brought again, as far as restart delays go; -inf where there is none."""
        waits = (WorkerState.BACKOFF, WorkerState.FAILED)
        return max([min([w.retry_at if w.state in waits else -inf for w in workers]) for workers in self.roles])

    def retry_wait(self, now: float) -> float:
        """Return the seconds until the group can be expected to be brought: to `retry_at`, or fewer for its port."""
        return max(min(worker.retry_wait(now) for worker in workers) for workers in self.roles)

    @property
    def awaits_port(self) -> bool:
        """Say whether a worker, without which nobody fills its role, comes once its port is free."""
        return any(worker.awaits_port for worker in self.lost_role)

    def retry_now(self, now: float) -> None:
        """End the restart delays."""
        for worker in self.members:
            worker.retry_at = min(worker.retry_at, now)

    @property
    def is_fixed(self) -> bool:
        """Say whether the group leaves for no other one, and no order takes it away."""
        return (self.is_pinned or self.is_sheltered) and not self.sent_away and self.state not in LEAVING

    @property
    def is_pinned(self) -> bool:
        """Say whether the group leaves for an operator's order only: as configured, or as an operator holds it."""
        return self.spec.pinned or self.held_until is not None

    @property
    def keeps_place(self) -> bool:
        """Say whether the memory of its workers, which have died, is kept for it: it is pinned, and starts again."""
        return self.state is WorkerState.BACKOFF and self.is_pinned and not self.sent_away

    @property
    def unused_since(self) -> float:
        """Return when the group was last used, or came to its GPUs; it may be in use now."""
        return max(self.awake_since, -inf if self.idle_since is None else self.idle_since)

    def is_sheltered_at(self, now: float) -> bool:
        """Say whether its last use, or the one under way, keeps it on its GPUs, as nobody exposes it."""
        if not self.spec.sheltered_for or self.state is not WorkerState.READY or self.is_exposed:
            return False
        return self.in_use or self.unused_since + self.spec.sheltered_for > now

    def keep_awake(self, seconds: float, as_of: float) -> bool:
        """Note how long a client wants it awake after its last use, unless that is older than what is known.

        Return whether that is another time than before.
        """
        if as_of < self.keep_alive_as_of:
            return False
        former, self.keep_alive, self.keep_alive_as_of = self.keep_alive, seconds, as_of
        return former != seconds

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """Return what becomes of the group while nobody uses it, as far as a client that wants it kept lets it."""
        if self.keep_alive is None:
            return self.spec.ladder
        if self.keep_alive == inf:
            return ()
        first, *deeper = self.spec.ladder or (Rung(0.0, None),)
        later = (Rung(max(self.keep_alive, rung.after), rung.level) for rung in deeper)
        return (Rung(self.keep_alive, first.level), *later)

    def level_from(self, level: int | None) -> int:
        """Return the level to which a rung leads: `level`, or the next deeper one that its workers have."""
        least = self.sleep_level if level is None else max(level, self.sleep_level if self.sleep_level == 3 else 0)
        return next(each for each in range(least, 4) if all(worker.can_sleep_at(each) for worker in self.serving))

    @property
    def leaves(self) -> bool:
        """Say whether the group is on its way off its GPUs, and not only to come back at once."""
        return self.state in LEAVING and not self.comes_back

    # Where clients send, and what for

    @property
    def url(self) -> str:
        """Return where requests go: the router's address, or that of the only member."""
        return self.router.url if self.router is not None else self.members[0].url

    @property
    def generation(self) -> int:
        """Return a number that grows with each start and wake of a member."""
        return sum(worker.generation for worker in self.members)

    @property
    def waiting_count(self) -> int:
        return sum(lease.count for lease in (*self.waiting.values(), *self.granted.values()))

    @property
    def batch_figures(self) -> tuple[int, int]:
        """Return how many of the requests in flight, and of those that wait, are batch."""
        leases = (*self.waiting.values(), *self.granted.values())
        return sum(lease.batch for lease in self.granted.values()), sum(lease.batch_count for lease in leases)

    @property
    def in_use(self) -> bool:
        """Say whether requests run or wait."""
        return not self.idle or self.wanted

    def note_leases(self) -> bool:
        """Note who waits for the group, and what is in flight, by its leases; say whether its use is another.

        That is what decisions depend on: whether it is idle, who waits, and since when its oldest answer is under way,
        where it is known when that is long.  So it is, too, where fewer are in flight and its drain is short now; of
        more, nobody comes sooner.
        """
        before, since, count = (self.idle, self.wanted, self.is_batch), self.oldest_since, self.in_flight
        self.in_flight, self.idle, self.oldest_since = 0, True, inf
        for lease in self.granted.values():
            self.in_flight += lease.in_flight
            self.idle = self.idle and not lease.busy
            if lease.oldest_since < self.oldest_since:
                self.oldest_since = lease.oldest_since
        weight, oldest, interactive = 0.0, inf, inf
        for lease in self.waiting.values():
            weight += lease.weight
            if lease.since < oldest:
                oldest = lease.since
            if lease.interactive_since < interactive:
                interactive = lease.interactive_since
        self.wanted = oldest < inf
        self.is_batch = self.wanted and interactive == inf
        self.weight, self.waits_since = weight, oldest
        self.contends_since = oldest if self.is_batch else interactive
        if before != (self.idle, self.wanted, self.is_batch):
            return True
        if self.oldest_since != since and self.answers.usual is not None:
            return True
        return self.in_flight < count and self.fullness < 1.0

    def oldest_wait(self, now: float) -> float:
        """Return the seconds that the oldest waiting request has waited; 0 where none waits."""
        return now - self.waits_since if self.wanted else 0.0

    def demand(self, second: int) -> float:
        """Return how often per second the group was wanted of late; 0 where it never was.

        It is reckoned in whole seconds, so that who leaves for whom need not be found anew with each event.
        """
        return len(self.uses) / max(1.0, second - self.uses[0]) if self.uses else 0.0

    @property
    def long_since(self) -> float:
        """Return when its oldest answer under way had taken, or will have, unusually long; inf where none is known."""
        usual = self.answers.usual
        return inf if usual is None else self.oldest_since + policy.LONG * usual

    @property
    def fullness(self) -> float:
        """Return the `policy.fullness`; inf where one answer may take far longer than usual, or nobody knows."""
        answers = self.answers
        if answers.usual is None or self.oldest_since == inf or answers.differ:
            return inf
        return policy.fullness(self.in_flight, answers.load)

    @property
    def until_idle(self) -> float:
        """Return the `policy.until_idle`; 0 where nobody knows how long its answers take."""
        answers = self.answers
        return 0.0 if answers.usual is None else policy.until_idle(answers.load, answers.usual)

    def is_quiet(self, now: float) -> bool:
        """Say whether few answers are under way, none of them for long, or none at all: a drain now is not typical."""
        return self.idle or (self.fullness == 0.0 and self.long_since > now)

    @property
    def known_drain(self) -> float:
        """Return the seconds that a drain takes, by earlier ones and by how long answers usually take; 0: not known."""
        return max(self.cost(WorkerState.DRAINING).known, self.answers.until_all_end or 0.0)

    @property
    def drain_without_long(self) -> float:
        """Return the seconds that a drain is expected to take which no unusually long answer holds up."""
        average, seconds = self.cost(WorkerState.DRAINING).seconds, self.answers.until_all_end
        return average if seconds is None else min(average, seconds)

    def long_left(self, now: float) -> float | None:
        """Return the seconds that the long answer under way takes yet, by earlier ones; None where nobody knows."""
        return self.answers.long_left(now - self.oldest_since) if self.long_since <= now else None

    # Orders

    @property
    def sent_away(self) -> bool:
        """Say whether an order takes the group off its GPUs, whoever else wants that."""
        if self.validation is not None:
            return self.validation.sends_away
        if self.order is None or self.order.verb in (Verb.START, Verb.RENEW_ROUTER):
            return False
        return self.order.verb is not Verb.SCALE or self.order.replicas == 0

    @property
    def is_cut_off(self) -> bool:
        """Say whether its clients wait for another router: nobody is let in before that is there."""
        return self.order is not None and self.order.verb is Verb.RENEW_ROUTER

    @property
    def validation(self) -> Validation | None:
        """Return how far the group's validation is; None where none is ordered."""
        return self.order.validation if self.order is not None else None

    @property
    def is_validated(self) -> bool:
        """Say whether the group is at a validation's disposal: its clients wait, and so do others for its GPUs."""
        return self.validation is not None and self.validation.has_begun

    @property
    def is_kept_away(self) -> bool:
        """Say whether a validation keeps the group from its GPUs for now, whoever wants it there."""
        return self.validation is not None and not self.validation.calls

    @property
    def launch_level(self) -> int | None:
        """Return the level for which a validation has the processes launched; None: the one that is configured."""
        return self.validation.launch_level if self.validation is not None else None

    @property
    def stays_up(self) -> bool:
        """Say whether the group is up and no order takes it down: what died of it is started again."""
        return self.state in UP and (not self.sent_away or (self.order is not None and self.order.is_down))

    @property
    def comes_back(self) -> bool:
        """Say whether the group leaves only to be started again at once."""
        return self.order is not None and self.order.verb in (Verb.RESTART, Verb.VALIDATE)

    # Costs: the members move side by side, so that a move of the group takes as long as the slowest

    def cost(self, state: WorkerState, level: int | None = None) -> Cost:
        """Return what it costs to get through a state: of a sleep or a wake at `level`, by default the last one."""
        return _slowest([worker.cost(state, level) for worker in self.enlisted])

    @property
    def return_cost(self) -> Cost:
        """Return the cost of getting the group ready from its present state: a wake or a start."""
        return _slowest([worker.return_cost for worker in self.enlisted])

    def comeback_cost(self, level: int) -> Cost:
        """Return the cost of getting the group ready again from `level`."""
        return _slowest([worker.comeback_cost(level) for worker in self.enlisted])

    def leave_cost(self, level: int) -> Cost:
        """Return the cost of getting the group to `level` once it is drained."""
        return _slowest([worker.leave_cost(level) for worker in self.enlisted])

    # Sleep levels: the members go to the same one, but for those that cannot, or sleep deeper already

    @property
    def sleep_level(self) -> int:
        """Return the level at which the group sleeps unless an order says another."""
        return min([worker.sleep_level for worker in self.serving])

    @property
    def level(self) -> int:
        """Return the shallowest level at which a member sleeps, or towards which it falls asleep; 3: nobody does."""
        return min((w.level for w in self.serving if w.state in _SLEEPING), default=3)

    @property
    def levels_left(self) -> list[int]:
        """Return the levels to which the group may go when room is needed, the shallowest first."""
        return sorted({level for worker in self.serving if not worker.is_down for level in worker.levels_left}) or [3]

    def sleeps_at(self, level: int) -> bool:
        """Say whether every member sleeps at `level` or deeper, or has ended."""
        if len(self.serving) == 1:
            return self.serving[0].sleeps_at(level)
        return all(worker.sleeps_at(level) for worker in self.serving)


def _slowest(costs: list[Cost]) -> Cost:
    return costs[0] if len(costs) == 1 else max(costs, key=lambda cost: cost.seconds)
