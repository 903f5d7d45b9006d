"""Every cause by its own name: in status, in the client's 503, in muxd's log, with what to do next."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .conftest import two_models
from .muxd import Muxd, chat_body, eventually, free_port

#: How the simulator's start ends, the code, what the message says, and whether another try is of use.
ENDINGS = (
    ("missing-path", "model_path_missing", "there is no model at", True),
    ("no-weights", "model_incomplete", "has no weights in it", True),
    ("gated", "model_download_failed", "it is gated", True),
    ("offline", "model_download_failed", "the Hub cannot be reached", False),
    ("remote-code", "unsupported_model", "--trust-remote-code", True),
    ("context", "context_too_long", "lower --context-length", True),
    ("kv-room", "out_of_memory", "raise --mem-fraction-static", False),
    ("host-memory", "host_out_of_memory", "sleep_level = 2 instead of 1", False),
    ("disk", "disk_full", "free some room", False),
    ("no-sglang", "engine_missing", "sglang is not installed in /", True),
    ("no-memory-saver", "engine_missing", "use sleep_level = 3", True),
    ("old-driver", "cuda_unavailable", "update the driver", True),
    ("permission", "access_denied", "give it the right", True),
    ("unknown-error", "engine_error", "AssertionError: page_size must be", False),
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


def failing(fault: str, keys: str = "restart_limit = 2", levels: tuple[int, int] = (1, 2)) -> str:
    return two_models(alpha=f'faults = ["{fault}"]', alpha_keys=keys, levels=levels)


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


def test_a_bad_flag_is_named(start):
    muxd = start(two_models(alpha_keys='args = ["--no-such-flag", "s3cret"]'))
    view = assert_failed(muxd, "bad_flag", "the engine does not know --no-such-flag; correct the model's args")
    assert "s3cret" not in view["reason"]


def test_an_out_of_memory_at_load_says_how_much_was_wanted_and_counts_like_any_other(start):
    muxd = start(failing("oom-text"))
    assert_failed(muxd, "out_of_memory", "made its KV cache: 20.00 GiB more did not fit in 0.00 GiB free of 80.00 GiB")
    assert starts(muxd) == 2
    assert "lower --mem-fraction-static" in muxd.status("alpha")["reason"]
    assert muxd.ask("beta"), "the other model is not harmed"


@pytest.mark.parametrize(("part", "level", "words"), [("memory-saver", 2, "= 3"), ("cpu-backup", 1, "= 2 or 3")])
def test_an_engine_without_the_flag_of_a_sleep_level_is_too_old_for_it(start, part, level, words):
    muxd = start(failing(f"lacks={part}", levels=(level, 2)))
    assert_failed(muxd, "engine_too_old", f"use sleep_level {words}")


def test_a_program_that_is_gone_or_may_not_be_executed_is_told_apart(start, tmp_path):
    python = tmp_path / "python"
    python.symlink_to("/bin/true")
    muxd = start(f'[models.alpha]\nmodel_path = "x/y"\npython = "{python}"\n')
    python.unlink()
    assert_failed_now(muxd, "engine_missing", f"{python}; correct the model's `python`")
    python.write_text("no program")
    assert_failed_now(muxd, "access_denied", "give muxd's user the right to it (chmod +x for a script)")
    python.chmod(0o755)
    assert_failed_now(muxd, "engine_missing", "it is no program")


def assert_failed_now(muxd: Muxd, code: str, words: str) -> None:
    error = muxd.switch("alpha")["error"]
    assert error["code"] == code
    assert words in error["message"]


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


def test_a_start_that_takes_too_long_has_a_name_too(start):
    models = two_models(alpha="load_time = 30.0", alpha_keys='start_timeout = "1s"\nrestart_limit = 1')
    muxd = start(models.replace("load_time = 0.3, sl", "sl"))
    assert_failed(muxd, "start_timeout", "did not become ready in 1 s; see in its log what it waits for")


def test_what_an_earlier_life_said_is_not_what_this_one_died_of(start, tmp_path):
    muxd = start(failing(f"oom-text,once={tmp_path / 'marker'}", keys="restart_limit = 9"))
    muxd.ask("alpha")
    assert muxd.status("alpha")["last_exit"]["code"] == "out_of_memory"
    os.kill(muxd.worker("alpha")["launcher"], signal.SIGKILL)
    eventually(lambda: muxd.status("alpha")["restarts"] == 2, "alpha was started again")
    muxd.until_state("alpha", "ready")
    last = muxd.status("alpha")["last_exit"]
    assert (last["code"], last["reason"]) == (None, "killed by SIGKILL")


# Sleep and wake


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("lacks=sleep-routes", "engine_too_old", "this engine knows no pause"),
        ("lacks=effect", "engine_too_old", "gives nothing up, for it was started without --enable-memory-saver"),
    ],
)
def test_a_sleep_that_an_engine_cannot_do_is_told_and_the_switch_goes_on(start, fault, code, words):
    muxd = start(failing(fault))
    text = muxd.ask("alpha")
    assert muxd.ask("beta")
    assert f"alpha: {code}: " in muxd.log
    assert words in muxd.status("alpha")["sleep_trouble"]
    assert muxd.ask("alpha") == text, "a cold start brings it back"


def test_a_reload_that_is_refused_is_served_by_a_cold_start_and_after_two_it_sleeps_at_level_3(start):
    muxd = start(failing("fail-on=reload", keys="", levels=(2, 1)))
    text = muxd.ask("alpha")
    for _ in range(2):
        assert muxd.status("alpha")["sleep_level"] == 2
        assert muxd.ask("beta")
        assert muxd.ask("alpha") == text
        last = muxd.status("alpha")["last_exit"]
        assert last["code"] == "reload_refused"
        assert "'Parameter' object has no attribute 'weight_loader'" in last["reason"]
        assert "use sleep_level = 1 or 3" in last["reason"]
    assert muxd.status("alpha")["sleep_level"] == 3
    assert "could not reload its weights" in muxd.status("alpha")["sleep_trouble"]
    assert muxd.ask("beta")
    assert muxd.state("alpha") == "unloaded"
    assert muxd.ask("alpha") == text


def test_an_engine_that_dies_of_its_reload_has_refused_it_as_well(start):
    muxd = start(failing("die-on=reload", keys="", levels=(2, 1)))
    text = muxd.ask("alpha")
    muxd.ask("beta")
    assert muxd.ask("alpha") == text
    last = muxd.status("alpha")["last_exit"]
    assert last["code"] == "reload_refused"
    assert "the engine died of reloading its weights" in last["reason"]
