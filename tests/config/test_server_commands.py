"""How a user's own commands and steps are read, and what their placeholders become."""

from pathlib import Path

import pytest

from muxd.config.readers import Base
from muxd.config.server_commands import (
    HookStep,
    command_line,
    filled,
    hook_steps,
    literal,
    placeholders_in,
    url_path,
    url_paths,
)

BASE = Base(Path("/etc/muxd"), Path("/home/u"))
VALUES = {"port": ("8000",), "pids": ("7", "8"), "model_path": ("/m/a b.gguf",)}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("serve", "--port", "{port}"), ("serve", "--port", "8000")),
        (("--listen=127.0.0.1:{port}", "{model_path}"), ("--listen=127.0.0.1:8000", "/m/a b.gguf")),
        (("kill", "-STOP", "{pids}"), ("kill", "-STOP", "7", "8")),
        (("sh", "-c", "kill {pids}"), ("sh", "-c", "kill 7 8")),
        (("sh", "-c", "serve ${PORT} {{port}} {} {Port}"), ("sh", "-c", "serve ${PORT} {{port}} {} {Port}")),
        (('{"a": {"port": 1}}',), ('{"a": {"port": 1}}',)),
        (("{lbrace}port}", "{lbrace}", "a{lbrace}{port}"), ("{port}", "{", "a{8000")),
    ],
)
def test_a_placeholder_is_filled_in_and_the_braces_of_others_are_left_alone(words, wanted):
    assert filled(words, VALUES) == wanted


@pytest.mark.parametrize("text", ["awk '{print}' {port} ${port} {{port}} {} {pid}{lbrace}", "{", "{port}", "x"])
def test_text_that_is_made_literal_comes_out_as_it_was(text):
    assert filled([literal(text)], VALUES) == (text,)


def test_placeholders_are_listed_in_their_order():
    assert list(placeholders_in(("{port}", "x", "{pid}:{port}", "${pid}", "{{pid}}"))) == ["port", "pid", "port"]


def test_a_program_given_as_a_path_starts_from_the_files_folder_and_other_words_stay():
    assert command_line(["./serve.sh", "./x"], BASE) == ("/etc/muxd/serve.sh", "./x")
    assert command_line(["~/bin/serve"], BASE) == ("/home/u/bin/serve",)
    assert command_line(["llama-server"], BASE) == ("llama-server",)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("serve --port 'a b'", r'no shell takes it apart; write \["serve", "--port", "a b"\]'),
        ("serve 'x", r'write \["serve", "\'x"\]'),
        ([], 'names no program; write ["PROGRAM", "ARGUMENT", ...]'.replace("[", r"\[").replace("]", r"\]")),
        ([""], "names no program"),
        ([1], r"1.* is not a list of strings"),
        (5, "is not a list of strings"),
    ],
)
def test_a_command_that_is_no_list_of_words_is_refused_with_what_to_write(value, problem):
    with pytest.raises(ValueError, match=problem):
        command_line(value, BASE)


@pytest.mark.parametrize("value", ["health", "http://x/health", "/a b", "", "/ü", 5])
def test_a_path_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r'write "/health"|write one line of text'):
        url_path(value, BASE)


def test_a_list_of_paths_that_names_none_is_refused():
    assert url_paths(["/v1/models"], BASE) == ("/v1/models",)
    with pytest.raises(ValueError, match="leaves nothing to ask"):
        url_paths([], BASE)


def test_steps_are_calls_and_commands_in_the_order_that_they_are_written():
    steps = [
        {"post": "/sleep", "body": {"level": 1}, "headers": {"x-key": "k"}},
        {"get": "/health"},
        {"command": ["./toggle", "{pid}"]},
    ]
    assert hook_steps(steps, BASE) == (
        HookStep("POST", "/sleep", {"level": 1}, {"x-key": "k"}),
        HookStep("GET", "/health"),
        HookStep(command=("/etc/muxd/toggle", "{pid}")),
    )
    assert hook_steps(steps[1], BASE) == (HookStep("GET", "/health"),)
    assert [str(step) for step in hook_steps(steps, BASE)] == ["POST /sleep", "GET /health", "/etc/muxd/toggle '{pid}'"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("/sleep", "is no list of steps; write"),
        ([5], "is no list of steps"),
        ([{}], "a step says nothing to do; write"),
        ([{"post": "/a", "command": ["x"]}], "says post and command at once"),
        ([{"pots": "/a"}], '"pots" is not known in a step; did you mean post'),
        ([{"command": ["x"], "body": {}}], "body belongs to an HTTP call"),
        ([{"post": "sleep"}], 'write "/health"'),
        ([{"post": "/a", "headers": 5}], "is no table of headers"),
        ([{"post": "/a", "body": {"x": float("nan")}}], "cannot be said in JSON"),
        ([{"command": "kill x"}], r'write \["kill", "x"\]'),
    ],
)
def test_a_step_that_cannot_be_taken_is_refused_with_what_to_write(value, problem):
    with pytest.raises(ValueError, match=problem):
        hook_steps(value, BASE)
