"""`muxctl top` on a real terminal."""

import sys

from .conftest import ROOT
from .terminal import Terminal
from .test_status import STATUS


def test_it_draws_orders_and_ends(muxd, elsewhere):
    muxd.scripts = {
        "GET /v1/status": lambda talk: talk.json(STATUS),
        "POST /v1/models/mistral-small/switch": lambda talk: talk.json({"accepted": True}),
    }
    argv = [sys.executable, "-m", "muxctl", "--socket", str(muxd.path), "top"]
    terminal = Terminal(argv, cwd=elsewhere, lines=24, columns=120, env={"PYTHONPATH": str(ROOT)})
    terminal.until("q quit")
    terminal.type("js")
    terminal.until("switch was ordered")
    terminal.type("q")
    assert terminal.ended() == 0


def test_without_a_terminal_it_says_what_to_use(muxd, muxctl):
    code, _, err = muxctl("top")
    assert code == 2
    assert "muxctl status --watch" in err
