from pathlib import Path

import pytest

from muxd.core.spec import WorkerSpec
from muxd.core.states import MOVES, WorkerState, diagram
from muxd.core.worker import IllegalMove, Worker


def test_every_state_is_in_the_table_and_can_be_reached_and_left():
    assert set(MOVES) == set(WorkerState)
    assert set().union(*MOVES.values()) == set(WorkerState)
    assert all(MOVES.values())


def test_the_documentation_shows_the_table():
    assert diagram() in (Path(__file__).parents[2] / "docs/architecture.md").read_text()


def test_an_illegal_move_tells_the_story_so_far():
    worker = Worker(WorkerSpec("a"), "a")
    worker.move(WorkerState.STARTING, 1.0)
    worker.move(WorkerState.FAILED, 2.0, "port taken")
    with pytest.raises(IllegalMove, match=r"a: failed -> ready .*starting -> failed port taken"):
        worker.move(WorkerState.READY, 3.0)
