"""Colours for a terminal; muxctl imports rich only for a terminal."""

from rich.console import Console
from rich.text import Text

from muxctl.display.view import Compose

# Colour -> the states that get it, in the second column of a table or behind "state:".
_STATES = {
    "green": ("ready",),
    "yellow": ("starting", "waking", "draining", "falling_asleep", "stopping", "backoff", "adopting"),
    "red": ("failed", "stuck", "unresponsive"),
    "dim": ("asleep", "unloaded", "stopped"),
}
_AT_STATE = "|".join(f"(?P<{style}>{'|'.join(states)})" for style, states in _STATES.items())


def show(compose: Compose) -> None:
    """Print lines of `muxctl status` for the width of the terminal."""
    console = Console(highlight=False, soft_wrap=True)
    for line in compose(console.width, None):
        console.print(coloured(line))


def coloured(line: str) -> Text:
    """Return a line of `muxctl status` with its state in colour, headings in bold."""
    text = Text(line)
    text.highlight_regex(rf"^(?:\S+)? +(?:{_AT_STATE})(?=  | for )")
    text.highlight_regex(r"^(?P<bold>MODEL .*|switching .*)")
    return text
