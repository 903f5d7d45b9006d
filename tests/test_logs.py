import io
import json
import logging
import os

import pytest

from muxd.logs import in_journal, setup_logging

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
    assert time.endswith("Z")


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
    log.error("e")
    (line,) = written(stream)
    assert line.startswith('<3>{"time": ')


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
