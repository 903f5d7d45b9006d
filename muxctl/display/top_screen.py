"""`muxctl top` on a terminal, by curses: asks muxd every second, draws, and gives the orders of the keys."""

import curses
import locale
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from muxctl.control_connection import ask, model_target
from muxctl.display.top_view import ORDERS, TopView
from muxctl.exit_codes import CommandFailed, ExitCode
from muxctl.socket_path import find_socket

#: Milliseconds between two looks at muxd, and seconds that it may take to answer.
PACE, PATIENCE = 1000, 5.0

#: Lines of a log that are shown at most.
_LOG_LINES = 200

_KEYS = {curses.KEY_UP: "up", curses.KEY_DOWN: "down"}


def show(socket: str | None) -> int:
    """Run until q; raises CommandFailed where there is no terminal, or where no muxd is found."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailed(
            "muxctl top needs a terminal; muxctl status --watch goes on looking in a pipe", ExitCode.USAGE
        )
    path = find_socket(socket)
    locale.setlocale(locale.LC_ALL, "")
    with suppress(KeyboardInterrupt):
        curses.wrapper(lambda window: _run(window, path))
    return ExitCode.OK


def _run(window: Any, path: str) -> None:
    styles = _styles()
    window.timeout(PACE)
    view, pane = TopView(), ""
    while True:
        _look(view, path)
        if pane:
            _fill(view, path, pane)
        _draw(window, view, styles)
        key = window.getch()
        done = view.press(_KEYS.get(key) or (chr(key) if 0 <= key < 0x110000 else ""))
        if done == "quit":
            return
        if done in ("log", "why"):
            pane = "" if pane == done else done
            view.pane = ()
        elif done in ORDERS.values():
            view.said = _order(path, view.name, done)


def _styles() -> dict[str, int]:
    curses.curs_set(0)
    curses.use_default_colors()
    for number, colour in enumerate((curses.COLOR_YELLOW, curses.COLOR_RED), 1):
        curses.init_pair(number, colour, -1)
    return {
        "": curses.A_NORMAL,
        "head": curses.A_BOLD,
        "chosen": curses.A_REVERSE,
        "dim": curses.A_DIM,
        "wait": curses.color_pair(1),
        "bad": curses.color_pair(2),
    }


def _look(view: TopView, path: str) -> None:
    try:
        view.take(ask(path, "GET", "/v1/status", patience=PATIENCE))
    except CommandFailed as failure:
        view.trouble = failure.message


def _fill(view: TopView, path: str, pane: str) -> None:
    """Put the model's log, or why it was switched last, below the table."""
    name = view.name
    try:
        if pane == "log":
            found = ask(path, "GET", f"{model_target(name, '/logs')}?lines={_LOG_LINES}", patience=PATIENCE)
            view.pane = [str(line["line"]) for line in found["lines"] if "line" in line]
        else:
            from muxctl.why import lines_of

            query = urlencode({"model": name, "lines": 1})
            switches = ask(path, "GET", f"/v1/switches?{query}", patience=PATIENCE)["switches"]
            view.pane = [line for switch in switches for line in lines_of(switch)] or ["it was not switched yet"]
        view.pane_title = f"{pane} of {name}" if pane == "log" else f"why {name}"
    except CommandFailed as failure:
        view.pane, view.pane_title = [failure.message], pane


def _order(path: str, name: str, order: str) -> str:
    """Give an order, and return what muxd says to it."""
    try:
        ask(path, "POST", model_target(name, f"/{order}"), {"wait": False}, PATIENCE)
    except CommandFailed as failure:
        return failure.message
    return f"{name}: {order} was ordered"


def _draw(window: Any, view: TopView, styles: dict[str, int]) -> None:
    height, width = window.getmaxyx()
    window.erase()
    for row, line in enumerate(view.lines(width - 1, height)):
        window.addnstr(row, 0, line.text, width - 1, styles[line.style])
    window.refresh()
