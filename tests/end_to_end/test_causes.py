"""A cause by its own name: in status, in the client's 503, in muxd's log, with what to do next.

That every ending has the right name is seen in tests/engines, tests/simulator/test_crashes and tests/workers.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.ports import free_port

from .conftest import two_models
from .muxd import Muxd, chat_body

#: How the simulator's start ends, the code, what the message says, and whether another try is of use.
ENDINGS = (
    ("missing-path", "model_path_missing", "there is no model at", True),
    ("kv-room", "out_of_memory", "raise --mem-fraction-static", False),
)


DEFAULTS = """\
[defaults]
engine = "simulator"
restart_limit = 2
simulation = { pace = 0.02 }
"""
MODEL = """\
[models.{name}]
simulation.faults = ["cannot-start={name}"]
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """A muxd with a model for each of the endings, named as it is."""
    models = "".join(MODEL.format(name=ending) for ending, *_ in ENDINGS)
    with Muxd(tmp_path_factory.mktemp("many"), DEFAULTS + models) as muxd:
        yield muxd


def assert_failed(muxd: Muxd, code: str, words: str, model: str = "alpha") -> dict[str, Any]:
    """A request for the model is told so, and so is whoever asks muxd; gives the model's status."""
    answer = muxd.post("/v1/chat/completions", chat_body(model, "x"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, code)
    assert words in error["message"]
    assert "Traceback" not in error["message"]
    assert int(answer.headers["retry-after"]) > 0
    view: dict[str, Any] = muxd.status(model)
    assert (view["state"], view["last_exit"]["code"]) == ("failed", code)
    assert words in view["last_exit"]["reason"]
    assert f"{model}: {code}: {view['last_exit']['reason']}" in muxd.log
    return view


def starts(muxd: Muxd, model: str = "alpha") -> int:
    return sum(move[::2] == (model, "starting") for move in muxd.moves())


@pytest.mark.parametrize(("ending", "code", "words", "refused"), ENDINGS, ids=[e[0] for e in ENDINGS])
def test_a_model_that_cannot_start_says_why_and_is_tried_again_only_where_that_is_of_use(
    many, ending, code, words, refused
):
    assert_failed(many, code, words, ending)
    assert starts(many, ending) == (1 if refused else 2)
    assert code in many.muxctl("status", ending).stdout


@pytest.mark.thorough
def test_a_port_that_is_taken_while_it_loads_is_told_by_its_number(start):
    port = free_port()
    muxd = start(two_models(alpha='faults = ["load-time=2"]', alpha_keys=f"port = {port}\nrestart_limit = 1"))
    with socket.socket() as other, ThreadPoolExecutor(1) as client:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        failed = client.submit(assert_failed, muxd, "port_taken", f"port {port} was taken by another process while")
        muxd.until_state("alpha", "starting")
        other.bind(("127.0.0.1", port))
        other.listen()
        other.setblocking(False)
        failed.result()
        with pytest.raises(BlockingIOError):  # nothing was asked of it, no key was told to it
            other.accept()
