"""What `muxctl top` shows and what its keys do."""

import pytest

from muxctl.display.top_view import HELP, TopView
from tests.muxctl.test_status import STATUS


@pytest.fixture
def view():
    view = TopView()
    view.take(STATUS)
    return view


def chosen(view):
    (line,) = [line for line in view.lines(140, 30) if line.style == "chosen"]
    return line.text.split()[0]


def test_all_models_are_there_and_the_first_is_chosen(view):
    text = "\n".join(line.text for line in view.lines(140, 30))
    assert all(model["name"] in text for model in STATUS["models"])
    assert "switching qwen -> mistral-small" in text
    assert chosen(view) == "qwen"
    assert view.lines(140, 30)[-1].text == HELP


def test_the_arrows_choose_and_end_at_the_ends(view):
    for key, name in [
        ("up", "qwen"),
        ("down", "mistral-small"),
        ("j", "broken"),
        ("down", "broken"),
        ("k", "mistral-small"),
    ]:
        view.press(key)
        assert chosen(view) == name


def test_the_choice_follows_its_model(view):
    view.press("down")
    view.take(STATUS | {"models": list(reversed(STATUS["models"]))})
    assert chosen(view) == "mistral-small"
    view.take(STATUS | {"models": STATUS["models"][:1]})
    assert chosen(view) == "qwen"


@pytest.mark.parametrize(
    ("key", "order"), [("s", "switch"), ("z", "sleep"), ("t", "start"), ("l", "log"), ("w", "why"), ("q", "quit")]
)
def test_a_key_is_an_order(view, key, order):
    assert view.press(key) == order


@pytest.mark.parametrize(("key", "order"), [("r", "restart"), ("x", "stop")])
def test_what_cuts_requests_asks_first_and_names_them(view, key, order):
    assert view.press(key) == ""
    foot = view.lines(140, 30)[-2]
    assert foot.text.startswith(f"{order} qwen? it has 3 requests;")
    assert view.press("n") == ""
    assert view.lines(140, 30)[-2].text == f"{order} was not ordered"
    view.press(key)
    assert view.press("y") == order


@pytest.mark.parametrize("key", ["", "?", "\x1b", "y", "\x00", "é"])
def test_another_key_is_nothing(view, key):
    assert view.press(key) == ""


def test_muxd_may_be_away(view):
    view.trouble = "muxd is not running"
    first = view.lines(140, 30)[0]
    assert (first.text, first.style) == ("muxd cannot be asked now: muxd is not running", "bad")
    assert chosen(view) == "qwen"
    empty = TopView()
    empty.trouble = "muxd is not running"
    assert empty.lines(80, 24)[0].text == "muxd is not running"
    assert empty.press("s") == ""


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (200, 60), (5, 3)])
def test_the_screen_is_filled_and_never_more(view, width, height):
    view.pane, view.pane_title = [f"line {n} \x1b[2J" for n in range(100)], "log of qwen"
    lines = view.lines(width, height)
    assert len(lines) == height
    assert not any("\x1b" in line.text for line in lines)


def test_the_end_of_a_log_is_below_the_table(view):
    view.pane, view.pane_title = [f"line {n}" for n in range(100)], "log of qwen"
    text = [line.text for line in view.lines(140, 30)]
    assert "log of qwen" in text
    assert text[-3] == "line 99"
