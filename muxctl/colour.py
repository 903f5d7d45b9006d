"""Colours, on a terminal only: the one reason to import rich."""

from rich.console import Console
from rich.text import Text

# A state in the second column of a table, or behind "state:", by the colour it gets.
_STATES = {
    "green": ("ready",),
    "yellow": ("starting", "waking", "draining", "falling_asleep", "stopping", "backoff", "adopting"),
    "red": ("failed", "stuck", "unresponsive"),
    "dim": ("asleep", "stopped"),
}
_AT_STATE = "|".join(f"(?P<{style}>{'|'.join(states)})" for style, states in _STATES.items())


def show(lines: list[str]) -> None:
    """Print lines of `muxctl status`; long ones wrap, nothing is cut."""
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        text = Text(line)
        text.highlight_regex(rf"^(?:\S+|state:) +(?:{_AT_STATE})\b")
        text.highlight_regex(r"^(?P<bold>MODEL .*|switching .*)")
        console.print(text)
