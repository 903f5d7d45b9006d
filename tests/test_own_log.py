import io
import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from muxd.log_levels import LOG_LEVELS
from muxd.log_names import own_log_file
from muxd.own_log import in_journal, keep_log, setup_logging
from muxd.shim.log import Log

log = logging.getLogger("muxd.test")


@pytest.fixture(autouse=True)
def _put_logging_back():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def journal(tmp_path):
    """A stream that $JOURNAL_STREAM names, and the environment that does."""
    with (tmp_path / "stderr").open("w+") as stream:
        found = os.fstat(stream.fileno())
        yield stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def written(stream):
    stream.seek(0)
    return stream.read().splitlines()


def test_text_has_time_level_and_name():
    stream = io.StringIO()
    setup_logging("info", "text", {}, stream)
    log.info("worker %s is ready", "qwen")
    log.debug("not told")
    time, rest = stream.getvalue().split(" ", 1)
    assert rest == "INFO muxd.test: worker qwen is ready\n"
    assert datetime.fromisoformat(time).utcoffset() is not None


def test_json_is_one_object_per_line_with_all_extras():
    stream = io.StringIO()
    setup_logging("warning", "json", {}, stream)
    try:
        raise ValueError("what\nnow")
    except ValueError:
        log.exception("worker died", extra={"model": "qwen", "status": 1})
    line = json.loads(stream.getvalue())
    assert "ValueError: what\nnow" in line.pop("exception")
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "error",
        "logger": "muxd.test",
        "message": "worker died",
        "model": "qwen",
        "status": 1,
    }


def test_an_extra_cannot_take_the_place_of_what_every_line_has():
    stream = io.StringIO()
    setup_logging("info", "json", {}, stream)
    log.info("switched", extra={"level": 2, "time": 1.5})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["level_"], line["time_"]) == ("info", 2, 1.5)
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("value", [float("inf"), {"inner": float("nan")}, Path("/x"), b"raw", {1}])
def test_json_has_a_form_for_every_extra(value):
    stream = io.StringIO()
    setup_logging("info", "json", {}, stream)
    log.info("odd", extra={"value": value})
    line = json.loads(stream.getvalue(), parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert line["value"] == str(value)


def test_json_has_the_stack_where_it_was_asked_for():
    stream = io.StringIO()
    setup_logging("info", "json", {}, stream)
    log.info("here", stack_info=True)
    assert "test_json_has_the_stack_where" in json.loads(stream.getvalue())["stack"]


def test_json_keeps_line_ends_and_other_alphabets_in_one_line():
    stream = io.StringIO()
    setup_logging("info", "json", {}, stream)
    log.info("two\nlines: %s", "größer")
    (text,) = stream.getvalue().splitlines()
    assert "größer" in text
    assert json.loads(text)["message"] == "two\nlines: größer"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", LOG_LEVELS)
def test_a_level_lets_through_itself_and_what_is_graver(level, form):
    stream = io.StringIO()
    setup_logging(level, form, {}, stream)
    for name in LOG_LEVELS:
        getattr(log, name)("said %s", name)
    said = [line.rsplit("said ", 1)[1].split('"')[0] for line in stream.getvalue().splitlines()]
    assert said == list(LOG_LEVELS[LOG_LEVELS.index(level) :])


def test_a_second_set_up_takes_the_place_of_the_first():
    first, second = io.StringIO(), io.StringIO()
    setup_logging("debug", "text", {}, first)
    setup_logging("info", "json", {}, second)
    log.debug("a")
    log.info("b")
    assert (first.getvalue(), json.loads(second.getvalue())["message"]) == ("", "b")


def test_the_http_clients_own_chatter_is_left_out_at_every_level():
    stream = io.StringIO()
    setup_logging("debug", "text", {}, stream)
    logging.getLogger("httpx").info("HTTP Request: GET /health 200")
    logging.getLogger("httpcore.connection").debug("connect_tcp.started")
    logging.getLogger("httpx").warning("something is wrong")
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["WARNING httpx: something is wrong"]


def test_a_path_that_is_not_utf_8_does_not_lose_the_line(tmp_path):
    for form in ("text", "json"):
        with (tmp_path / form).open("w+", encoding="utf-8", errors="backslashreplace") as stream:  # as stderr is
            setup_logging("info", form, {}, stream)
            log.info("reading %s", os.fsdecode(b"/m\xff"))
            (line,) = written(stream)
        assert "reading /m" + "\\udcff" in line.replace("\\\\", "\\")


def test_the_journal_gets_a_priority_on_every_line_and_no_time(journal):
    stream, environ = journal
    setup_logging("debug", "text", environ, stream)
    log.debug("a")
    log.info("b")
    log.warning("c\nd")
    log.error("e")
    log.critical("f")
    assert written(stream) == [
        "<7>DEBUG muxd.test: a",
        "<6>INFO muxd.test: b",
        "<4>WARNING muxd.test: c",
        "<4>d",
        "<3>ERROR muxd.test: e",
        "<2>CRITICAL muxd.test: f",
    ]


def test_the_journal_gets_json_with_a_priority_too(journal):
    stream, environ = journal
    setup_logging("info", "json", environ, stream)
    try:
        raise ValueError("what\nnow")
    except ValueError:
        log.exception("e")
    (line,) = written(stream)
    assert line.startswith('<3>{"time": ')
    assert json.loads(line[3:])["message"] == "e"


def test_the_journal_gets_a_priority_on_every_line_of_a_traceback(journal):
    stream, environ = journal
    setup_logging("info", "text", environ, stream)
    try:
        raise ValueError("what\nnow")
    except ValueError:
        log.exception("e")
    lines = written(stream)
    assert len(lines) > 4
    assert [line for line in lines if not line.startswith("<3>")] == []


def test_another_stream_than_the_journals_is_no_journal(journal, tmp_path):
    _, environ = journal
    with (tmp_path / "other").open("w") as other:
        assert not in_journal(other, environ)
    assert not in_journal(io.StringIO(), environ)


def test_a_stream_that_cannot_be_written_is_no_error(capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", closefd=False) as stream:
        setup_logging("info", "text", {}, stream)
        log.info("lost")
        logging.getLogger().handlers.clear()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, writer)  # what the stream still holds goes there
        os.close(sink)
    os.close(writer)
    assert capsys.readouterr().err == ""


def test_the_level_of_the_command_line_goes_before_the_configurations(tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text(
        f"[muxd]\nlog_level = 'error'\nsocket = '{tmp_path}/s'\nstate_dir = '{tmp_path}/state'\n"
        "[proxy]\nmanaged = false\n[models.a]\nengine = 'simulator'\n"
    )
    argv = [sys.executable, "-m", "muxd", "start", "--config", str(file), "--log-level", "info"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        assert " INFO muxd." in daemon.stderr.readline()
        daemon.terminate()
        daemon.stderr.read()
    assert daemon.returncode == 0


def test_a_level_that_does_not_exist_is_a_mistake_in_the_command(tmp_path):
    argv = [sys.executable, "-m", "muxd", "start", "--log-level", "loud"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "loud" in done.stderr


def kept_in(folder):
    """Return the lines of muxd's own log file, once its handler has ended."""
    for handler in logging.getLogger().handlers:
        handler.close()
    return own_log_file(folder).read_text().splitlines()


def test_what_is_logged_is_kept_in_a_file_wherever_stderr_goes(journal, tmp_path):
    stream, environ = journal
    setup_logging("info", "text", environ, stream)
    keep_log(Log(str(own_log_file(tmp_path)), 1 << 20, 1), "text")
    log.info("before")
    setup_logging("info", "json", environ, stream)  # as a reload does
    log.info("after")
    first, second = kept_in(tmp_path)
    assert first.endswith(" INFO muxd.test: before")
    assert json.loads(second)["message"] == "after"
    assert written(stream)[0] == "<6>INFO muxd.test: before"


def test_a_file_that_cannot_be_written_costs_nothing_but_the_file(tmp_path):
    stream = io.StringIO()
    setup_logging("info", "text", {}, stream)
    own_log_file(tmp_path).mkdir()
    keep_log(Log(str(own_log_file(tmp_path)), 1 << 20, 1), "text")
    log.info("told all the same")
    for handler in logging.getLogger().handlers:
        handler.close()
    assert "told all the same" in stream.getvalue()
