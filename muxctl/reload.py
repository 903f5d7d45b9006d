"""`muxctl reload`: have muxd read its configuration again, and say what that changes for which model."""

from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.control_connection import ask
from muxctl.display.tables import plain, table
from muxctl.exit_codes import EVERYWHERE, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
muxd reads its configuration again and applies what changed: all of it,
or nothing, where anything in it is wrong or needs a new start of muxd.  Models
that the plan does not name go on undisturbed.  Flags of an engine or a router
that are new are shown to its own parser first, which takes some seconds."""
EXAMPLES = {
    "muxctl reload --dry-run": "what would change, without changing it",
    "muxctl reload": "apply it",
}
EXITS = EVERYWHERE | {
    ExitCode.OK: "applied, or nothing to change",
    ExitCode.FAILED: "failed, or muxd must be started anew for it; nothing was changed",
    ExitCode.USAGE: "usage, or problems in the configuration; nothing was changed",
}

COLUMNS = ("MODEL", "ACTION", "CHANGES")

_PATIENCE = 600.0  # seconds; muxd first checks every model's files, and has engines parse flags that are new

_MOST = 20  # names in a line, at most

_IN_WORDS = {
    "add": "added; it may be asked for at once",
    "remove": "stopped after its requests have finished, and not known any more",
    "restart": "restarted after its requests have finished",
    "update": "changed while it runs; no request is disturbed",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")


def run(options: Namespace) -> int:
    answer = ask(find_socket(options.socket), "POST", "/v1/reload", {"dry_run": options.dry_run}, _PATIENCE)
    if options.json:
        import json

        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(plan_lines(answer)))
    return ExitCode.OK


def plan_lines(answer: dict[str, Any]) -> list[str]:
    """Return the lines of the plan: a table, then what happens to each model in plain words."""
    plan, settings = answer["plan"], answer["settings"]
    warnings = [f"WARNING: {plain(warning)}" for warning in answer.get("warnings", [])]
    if not plan and not settings:
        return ["nothing to change", *warnings]
    lines = [*table([COLUMNS, *map(_row, plan)]), ""] if plan else []
    lines += [f"{plain(step['model'])}: {_in_words(step)}{_renamed(step)}" for step in plan]
    lines += [f"{plain(setting)}: takes its new value, no model is disturbed" for setting in settings]
    if answer["unchanged"]:
        lines.append(f"unchanged: {_few(list(map(plain, answer['unchanged'])))}")
    lines += warnings
    read = ", ".join(map(plain, answer["files"])) or "the configuration"
    return [*lines, "", f"applied {read}" if answer["applied"] else f"nothing was changed yet; read {read}"]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _row(step: dict[str, Any]) -> tuple[str, ...]:
    return plain(step["model"]), plain(step["action"]), ", ".join(map(plain, step["changes"])) or "-"


def _renamed(step: dict[str, Any]) -> str:
    if not step.get("was"):
        return ""
    return f"; it is {plain(step['was'])} under another name: served_names gives a model further names without a load"


def _in_words(step: dict[str, Any]) -> str:
    if workers := step.get("workers"):
        waits = "new requests wait for its next router" if any(w.startswith("restart") for w in workers) else ""
        return "; ".join(filter(None, [*map(plain, workers), "its other workers stay as they are", waits]))
    return _IN_WORDS.get(step["action"], plain(step["action"]))
