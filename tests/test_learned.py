"""What was measured of workers, as the state file keeps it for the next muxd."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from msgspec import structs

from muxd.core.events import Started
from muxd.core.scheduler import Scheduler
from muxd.core.spec import Learned, Troubles
from muxd.core.states import WorkerState
from muxd.core.view import CoreView
from muxd.saved_state import LearnedRecord, StateFile
from muxd.supervisor import learned
from muxd.supervisor.learned import LearnedFile
from tests.core.playbook import single
from tests.fakes import a_model

MEASURED = Learned({(WorkerState.STARTING, None): 12.5, (WorkerState.WAKING, 2): 3.0}, {2: 7})


@pytest.fixture
def runner():
    """A worker's runner, as far as it is asked."""
    return SimpleNamespace(model=a_model("a"))


def a_file(tmp_path, runner, scheduler=None):
    state = StateFile(tmp_path / "state.json")
    state.load()
    return LearnedFile(state, CoreView(scheduler or Scheduler([single("a")])), {"a": runner}), state


def test_what_is_kept_is_recalled_by_the_next_muxd(tmp_path, runner):
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(0.0, learned={"a": MEASURED, "gone": MEASURED}))
    kept, _ = a_file(tmp_path, runner, scheduler)
    scheduler.host.moves += 1
    kept.keep()
    again, state = a_file(tmp_path, runner)
    assert again.recalled() == {"a": MEASURED}
    assert state.state.learned["a"].seconds == {"starting": 12.5, "waking at 2": 3.0}


def test_one_that_is_configured_otherwise_is_not_what_was_measured(tmp_path, runner):
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(0.0, learned={"a": MEASURED}))
    kept, _ = a_file(tmp_path, runner, scheduler)
    scheduler.host.moves += 1
    kept.keep()
    runner.model = replace(runner.model, args=("--tp", "2"))
    assert a_file(tmp_path, runner)[0].recalled() == {}


def test_nothing_is_written_where_nothing_has_changed(tmp_path, runner):
    scheduler = Scheduler([single("a")])
    kept, state = a_file(tmp_path, runner, scheduler)
    scheduler.host.moves += 1
    kept.keep()
    assert not state.path.exists()
    scheduler.handle(Started(0.0, learned={"a": MEASURED}))
    kept.keep()
    assert not state.path.exists(), "no worker has moved"


def test_what_another_muxd_wrote_and_this_one_does_not_know_is_left_out(tmp_path, runner):
    kept, state = a_file(tmp_path, runner)
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(0.0, learned={"a": MEASURED}))
    first, _ = a_file(tmp_path, runner, scheduler)
    scheduler.host.moves += 1
    first.keep()
    digest = StateFile(state.path).load().learned["a"].model
    odd = {"dreaming": 1.0, "waking at 9": 1.0, "waking at 1": -1.0, "waking at 2": 3.0}
    state.state.learned["a"] = LearnedRecord(model=digest, seconds=odd, kept={2: 7, 3: 1, 1: -4})
    assert kept.recalled() == {"a": Learned({(WorkerState.WAKING, 2): 3.0}, {2: 7})}


def test_what_is_recalled_counts_as_measured_and_goes_on_being_learned():
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(0.0, learned={"a": MEASURED}))
    worker = scheduler.host.workers["a"]
    assert (worker.cost(WorkerState.STARTING).seconds, worker.cost(WorkerState.STARTING).measured) == (12.5, True)
    assert worker.kept == {2: 7}
    assert worker.learned == MEASURED


def test_what_went_wrong_is_recalled_on_the_next_muxds_clock_unless_the_host_was_booted_since(
    tmp_path, runner, monkeypatch
):
    clock = SimpleNamespace(trio=100.0, host=5000.0)
    monkeypatch.setattr(learned, "trio", SimpleNamespace(current_time=lambda: clock.trio))
    monkeypatch.setattr(learned, "monotonic", lambda: clock.host)
    troubles = Troubles("backoff", "it died", 104.0, failures=(98.0, 99.0), in_a_row=2, ended="it died", ended_at=99.0)
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(100.0, troubles={"a": troubles}))
    kept, _ = a_file(tmp_path, runner, scheduler)
    scheduler.host.moves += 1
    kept.keep()
    clock.trio, clock.host = 7.0, 5002.0  # two seconds later
    again, state = a_file(tmp_path, runner)
    assert again.recalled_troubles()["a"] == structs.replace(
        troubles, retry_at=9.0, failures=(3.0, 4.0), ended_at=4.0, ready_since=None
    )
    state.state.learned["a"].boot_id = "another"
    assert again.recalled_troubles() == {}


def test_a_shutdown_in_order_forgets_what_went_wrong(tmp_path, runner):
    scheduler = Scheduler([single("a")])
    scheduler.handle(Started(0.0, learned={"a": MEASURED}, troubles={"a": Troubles(in_a_row=2, failures=(1.0,))}))
    kept, state = a_file(tmp_path, runner, scheduler)
    kept.keep(with_troubles=False)
    assert state.state.learned["a"].troubles is None
    assert a_file(tmp_path, runner)[0].recalled() == {"a": MEASURED}
