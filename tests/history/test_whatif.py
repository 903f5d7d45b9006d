"""What other settings would have done: fewer switches for longer waits, on the requests of a journal."""

from pathlib import Path

import pytest
import trio

from muxd.core.commands import GrantLease, RevokeLease, SetTimer, SleepWorker, StartWorker, StopWorker, WakeWorker
from muxd.core.events import (
    DemandReported,
    Event,
    LeaseAsked,
    LeaseEnded,
    StandbyPrepared,
    Started,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.scheduler import Scheduler
from muxd.core.spec import DefaultGroup
from muxd.errors import ConfigError
from muxd.history.decision_journal import DecisionJournal, NotAJournal
from muxd.history.whatif import HEAD, Observed, SimulatedHost, Work, whatif
from tests.core.playbook import single

GiB = 1 << 30


def two(**more) -> Scheduler:
    return Scheduler([single("a", copy=4 * GiB, sleep_level=1), single("b", copy=2 * GiB, sleep_level=1)], **more)


def outcome(works: list[Work], **settings):
    observed = Observed(two())
    changed = observed.settings
    for key, text in settings.items():
        changed = changed.changed(key.replace("__", "."), text)
    return SimulatedHost(changed, {}, two(), 0.0).run(works, [])


#: Short questions to two models in turns, faster than a switch takes.
IN_TURNS = [Work(100.0 + 2 * number, "ab"[number % 2], 1.0, 1) for number in range(60)]


def test_every_request_is_served_once_and_a_longer_target_makes_fewer_switches_and_longer_waits():
    short, long = outcome(IN_TURNS, wait_target="5s"), outcome(IN_TURNS, wait_target="300s", keep_turns="true")
    for each in (short, long):
        assert sum(number for _, number in each.waits) == len(IN_TURNS)
        assert (each.refused, each.unserved) == (0, 0)
    assert long.switches <= short.switches
    assert short.switching > 0
    assert 0 <= short.wait(0.5) <= short.wait(0.95) <= short.wait(1.0)


def test_a_process_in_standby_takes_to_its_gate_and_from_there_what_it_took_when_the_journal_was_written():
    def one() -> Scheduler:
        return Scheduler([single("a", sleep_level=3, standby=0)])

    observed = Observed(one())
    for event in (Started(0.0), StandbyPrepared(4.0, "a"), LeaseAsked(9.0, 1, "a"), WorkerReady(11.0, "a", "http://a")):
        observed.take(event)
    assert observed.to_gate == {"a": 4.0}
    for asked, waits in ((1.0, 5.0), (30.0, 2.0)):
        host = SimulatedHost(observed.settings, observed.learned, one(), 0.0, observed.to_gate)
        assert host.run([Work(asked, "a", 1.0, 1)], []).wait(1.0) == pytest.approx(waits)


def test_one_model_alone_is_loaded_once_and_nobody_waits_after_that():
    found = outcome([Work(100.0 * number, "a", 1.0, 2) for number in range(1, 9)])
    assert found.switches == 1
    assert sorted(wait for wait, _ in found.waits)[:-1] == [0.0] * 7
    assert found.ram_peak == 4 * GiB


def test_a_default_model_comes_back_in_the_simulation_as_it_did():
    def with_default() -> Scheduler:
        return two(default=DefaultGroup("a", after=10.0))

    settings = Observed(with_default()).settings
    found = SimulatedHost(settings, {}, with_default(), 0.0).run([Work(100.0, "b", 1.0, 1)], [])
    assert found.switches == 3  # a comes, b is asked for, a comes back


def test_how_long_batch_may_wait_is_a_setting_of_the_simulation():
    busy = [Work(100.0 + 10 * number, "a", 9.9, 1) for number in range(60)]
    works = [*busy, Work(150.0, "b", 1.0, 1, is_batch=True)]
    soon, late = outcome(works, batch_max_wait="60s"), outcome(works, batch_max_wait="500s")
    assert soon.wait(1.0) + 100.0 < late.wait(1.0)


def test_of_the_requests_of_a_journal_those_are_batch_that_waited_as_such():
    observed = Observed(two())
    batch = Waiting(is_batch=True)
    for event in (
        Started(0.0),
        LeaseAsked(1.0, 1, "a", (batch,)),
        WorkerReady(2.0, "a", "http://a"),
        DemandReported(3.0, 1, 1),
        DemandReported(4.0, 1, 0),
        DemandReported(5.0, 1, 0, (batch, Waiting())),
        DemandReported(6.0, 1, 2),
        DemandReported(7.0, 1, 0),
    ):
        observed.take(event)
    assert [work.is_batch for work in observed.works] == [True, False]


class Recorded:
    """A life of the core by hand, with its journal."""

    def __init__(self, path: Path) -> None:
        self.core, self.journal, self.now, self.timer = two(wait_target=5.0), DecisionJournal(path), 0.0, None
        self.journal._is_kept = True

    def tell(self, event: Event) -> None:
        self.journal.before(self.core)
        commands = self.core.handle(event)
        self.journal.record(event, commands)
        for command in commands:
            match command:
                case StartWorker(name) | WakeWorker(name):
                    self.now += 3
                    self.tell(WorkerReady(self.now, name, f"http://{name}"))
                case SleepWorker(name):
                    self.now += 1
                    self.tell(WorkerAsleep(self.now, name))
                case StopWorker(name):
                    self.tell(WorkerExited(self.now, name))
                case RevokeLease(lease):
                    self.tell(LeaseEnded(self.now, lease))
                case GrantLease(lease):
                    self.now += 2
                    self.tell(DemandReported(self.now, lease, 0))
                case SetTimer(at):
                    self.timer = at


@pytest.fixture
def journal(tmp_path) -> Path:
    path = tmp_path / "decisions.journal"
    life = Recorded(path)
    life.tell(Started(0.0))
    for number in range(1, 9):
        life.now += 5
        life.tell(LeaseAsked(life.now, number, "ab"[number % 2]))
        while life.timer is not None and life.timer < life.now + 30:
            life.now, life.timer = max(life.now, life.timer), None
            life.tell(TimerFired(life.now))
    trio.run(life.journal._write)
    return path


def test_a_journal_is_told_as_it_was_as_it_is_simulated_and_with_other_settings(journal, capsys):
    assert whatif(journal, ["wait_target=60s", "a.sleep_level=2"]) == 0
    head, was, simulated, changed = capsys.readouterr().out.splitlines()
    assert head.split() == " ".join(HEAD).split()
    assert was.startswith("as it was ")
    assert int(was.split()[3]) == int(simulated.split()[1]) > 2
    assert changed.startswith("wait_target=60s, a.sleep_level=2 ")


def test_without_a_change_there_is_no_row_of_changes(journal, capsys):
    assert whatif(journal, []) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["SETTINGS", "as", "simulated"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("wait_target", "write KEY=VALUE"),
        ("waittarget=1s", "there are wait_target, keep_turns, batch_max_wait and MODEL.KEY with drain_timeout"),
        ("c.pinned=true", "of a, b"),
        ("a.color=red", "MODEL.KEY"),
        ("wait_target=soon", "'soon' is not a time"),
        ("keep_turns=maybe", "'maybe' is not true or false"),
        ("a.sleep_level=deep", "'deep' is not a whole number from 0 to 3"),
        ("a.sleep_level=9", "'9' is not a whole number from 0 to 3"),
        ("a.sleep_level=-1", "'-1' is not a whole number from 0 to 3"),
        ("a.priority=11", "'11' is not a whole number from -10 to 10"),
        ("a.share=-5", "'-5' is not a size"),
        ("a.copy=much", "'much' is not a size"),
    ],
)
def test_a_setting_that_there_is_not_is_told(journal, change, said):
    with pytest.raises(ConfigError, match=said):
        whatif(journal, [change])


def test_what_is_no_journal_is_told(tmp_path):
    with pytest.raises(NotAJournal):
        whatif(tmp_path / "none", [])
