"""`muxctl why [MODEL]`: why a switch was made, who asked for it, and where its time went."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any
from urllib.parse import urlencode

from muxctl.control_connection import ask
from muxctl.display.tables import hanging, plain, table
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket
from muxctl.times import stamp, when

MEANING = """\
The last switch, or the last that MODEL came or left by, or the one that was
under way at TIME: who asked, who had waited how long, what the policy compared,
and how long each part took.  muxd remembers the last 200."""
EXAMPLES = {
    "muxctl why": "the last switch",
    "muxctl why qwen": "the last by which qwen came or left",
    "muxctl why qwen --at 18:04": "the one that was under way then, or ended last",
    "muxctl why --json -n 200": "all that muxd remembers, for programs",
}
EXITS = EVERYWHERE | {ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL]}

_CAUSES = {
    "operator": "an operator switched to it, which goes ahead of the queue",
    "validation": "an operator has it validated",
    "due": "it was due: begun later, its wait would have passed its bound "
    "(wait_target, of batch batch_max_wait: {target})",
    "best": "requests waited for it, and for no other model that could come",
    "best_of_several": "of the models that requests waited for and that could come it was worth most: the most work "
    "that waits for each second of switching, and more the longer it has waited (SCORE)",
    "order": "an operator ordered it, and nobody had to leave",
    "crash": "it came back by itself after its end",
    "preload": "it has preload = true, or it was awake before its GPUs were lent, and the loan is over",
    "default": "it is the default model, and nothing else was wanted",
}
_COLUMNS = ("MODEL", "WAITING", "WAITED", "SCORE", "DUE IN", "COULD COME IN", "SWITCH COSTS")
_PARTS = ("drain", "sleep", "free", "wake")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or what clients call it")
    parser.add_argument("--at", metavar="TIME", help='"18:04", "2026-11-29 18:04:05", or "10min" ago')
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, default=1, help="so many switches, the newest last (1)"
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:5]) > 0):
        raise ArgumentTypeError(f"a whole number from 1, not {text!r}")
    return int(text)


def run(options: Namespace) -> int:
    query = {"lines": options.lines} | ({"model": options.name} if options.name else {})
    if options.at is not None:
        query["began_before"] = when(options.at, "--at")
    switches = ask(find_socket(options.socket), "GET", f"/v1/switches?{urlencode(query)}")["switches"]
    if options.json:
        print(json.dumps(switches, indent=2))
        return ExitCode.OK
    if not switches:
        of = f" of {options.name}" if options.name else ""
        raise CommandFailed(f"muxd remembers no switch{of}{' of that time' if options.at else ''}")
    print("\n\n".join("\n".join(lines_of(switch)) for switch in switches))
    return ExitCode.OK


def lines_of(switch: dict[str, Any]) -> list[str]:
    """Return what is told of one switch."""
    began = stamp(switch["began"])
    levels = switch["levels"]
    source = " and ".join(f"{plain(name)} (to level {levels.get(name, '?')})" for name in switch["from"])
    result = {"ready": "ready", "failed": "failed", "called_off": "called off"}.get(switch["result"], "under way")
    took = f" after {switch['duration_s']:.1f}s" if switch.get("duration_s") is not None else ""
    because = f": {plain(switch['reason'])}" if switch.get("reason") else ""
    head = f"{plain(switch['to'])}, {f'in the place of {source}, ' if source else ''}{began}: {result}{took}{because}"
    cause = _CAUSES.get(_cause(switch), plain(switch["cause"]))
    facts = [("  why", cause.format(target=_seconds(switch["wait_target_s"])))]
    if asked := [_asked(each) for each in switch["asked_by"]]:
        facts.append(("  asked by", ", ".join(asked)))
    if switch["waiting"]:
        oldest = f"the oldest for {_seconds(switch['waited_s'])} when the switch began"
        facts.append(("  waited", f"{_requests(switch['waiting'])}, {oldest}"))
    if "wake_s" in switch:
        facts.append(("  took", ", ".join(f"{part} {_seconds(switch[f'{part}_s'])}" for part in _PARTS)))
    return [head, *hanging(facts), *_compared(switch["compared"])]


def _cause(switch: dict[str, Any]) -> str:
    return "best_of_several" if switch["cause"] == "best" and len(switch["compared"]) > 1 else str(switch["cause"])


def _compared(compared: list[dict[str, Any]]) -> list[str]:
    if len(compared) < 2:
        return []
    rows = [_COLUMNS, *(_row(each) for each in compared)]
    return ["  compared", *(f"    {line}" for line in table(rows, range(1, len(_COLUMNS))))]


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    score = "-" if each["score"] is None else f"{each['score']:.3g}"
    times = (each["due_in_s"], each["comes_in_s"])
    due, comes = ("not yet known" if t is None else "now" if t <= 0 else _seconds(t) for t in times)
    return (
        plain(each["model"]),
        str(each["waiting"]),
        _seconds(each["waited_s"]),
        score,
        due,
        comes,
        _seconds(each["cost_s"]),
    )


def _asked(each: dict[str, Any]) -> str:
    if "operator" in each:
        return f"operator {plain(each['operator'] or '')}".rstrip()
    key = f"key {plain(each['key'])}, " if each["key"] else ""
    return f"{key}request {plain(each['request'])}"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}s"
