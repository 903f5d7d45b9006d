"""What the shell itself does when a script is followed: variables, options, folders, files that are read in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .conditions import tested
from .flow import Leave
from .grammar import read_commands
from .parameters import Ends
from .patterns import assigned_in
from .programs import PROGRAMS, Call, unknown
from .state import Unknown, Value, Variable
from .syntax import Assignment, NotUnderstood, Place, Simple
from .walk import Walk

_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")

#: Programs whose output makes a shell find other programs, and sets nothing that a server goes by.
_SET_UP = re.compile(r"\b(conda|mamba|micromamba|lmod|modulecmd|module|ssh-agent|pyenv|nvm|brew|pixi|mise|activate)\b")
_IS_OUTPUT = re.compile(r"<\(")

#: Shells that may be given a script as text.
SHELLS = ("bash", "sh", "dash")


# Variables


def _declare(call: Call) -> None:
    options = "".join(text[1:] for text in call.texts if text.startswith("-"))
    lost = [v for v in call.arguments if isinstance(v, Unknown) and "=" not in v.prefix]
    if lost:  # export $(grep -v '^#' .env | xargs)
        call.walk.state.lose(lost[0])
    for assignment in call.declared:
        _prepare(call, assignment.name, options)
        call.walk.assign(assignment)
        _mark(call, assignment.name, options)
    for text in call.texts:
        if text.startswith(("-", "+")):
            continue
        if match := _ASSIGNED.fullmatch(text):  # it came out of a parameter
            _prepare(call, match[1], options)
            call.walk.state.assign(match[1], match[3], call.place)
            _mark(call, match[1], options)
        elif _NAME.fullmatch(text):
            _prepare(call, text, options)
            _mark(call, text, options)
    call.walk.state.status = 0


def _prepare(call: Call, name: str, options: str) -> None:
    """`local X` hides an X of the caller, and begins unset."""
    if "n" in options and call.name != "export":
        raise NotUnderstood(call.place, f"{call.name} -n is not followed")
    inner = call.name == "local" or (call.name in ("declare", "typeset") and "g" not in options)
    if inner and call.walk.in_function:
        call.walk.hide(name)
        hidden = call.walk.state.variables.pop(name, None)
        if hidden is not None and hidden.exported:
            unset = Unknown(f"${name} is known only when it runs", call.place)
            call.walk.state.assign(name, unset, call.place, export=True)
    if "A" in options:
        call.walk.state.variables[name] = Variable({}, place=call.place, by_name=True)
    if set(options) & set("ilu"):
        old = call.walk.state.variables.get(name) or Variable("", place=call.place)
        call.walk.state.variables[name] = replace(old, changes=True)


def _mark(call: Call, name: str, options: str) -> None:
    variable = call.walk.state.variables.get(name)
    if variable is not None and any(re.fullmatch(r"\+\w*x\w*", text) for text in call.texts):
        call.walk.state.variables[name] = replace(variable, exported=False)
    elif variable is not None and (call.name == "export" or "x" in options):
        call.walk.state.variables[name] = replace(variable, exported=call.name != "export" or "n" not in options)


def _unset(call: Call) -> None:
    for text in call.texts:
        if text == "-f":
            return
        name, is_element, _ = text.partition("[")
        if is_element:
            call.walk.forget([name], call.place)
        call.walk.state.variables.pop(text, None)
    call.walk.state.status = 0


def _forget(call: Call) -> None:
    """`read X Y`, `mapfile X`, `getopts OPTIONS X`, `wait -p X`: all that could be a name."""
    if call.name == "wait":
        call.walk.waited = len(call.walk.runs)
    names = [text for text in call.texts if _NAME.fullmatch(text)]
    call.walk.forget(names or (["REPLY"] if call.name == "read" else []), call.place)


def _wait(call: Call) -> None:
    call.walk.waited = len(call.walk.runs)
    unknown(call)


def _let(call: Call) -> None:
    call.walk.forget([name for text in call.texts for name in assigned_in(text)], call.place)


# Options and arguments


_LETTERS = {"e": "errexit", "u": "nounset", "a": "allexport"}


def _set(call: Call) -> None:
    state, rest = call.walk.state, list(call.arguments)
    while rest and isinstance(rest[0], str) and rest[0][:1] in ("-", "+") and len(rest[0]) > 1:
        option = str(rest.pop(0))
        if option == "--":
            state.arguments = rest
            break
        chosen = {_LETTERS[letter] for letter in option[1:] if letter in _LETTERS}
        if option.endswith("o") and rest and isinstance(rest[0], str):
            chosen.add(str(rest.pop(0)))
        state.options = state.options | chosen if option[0] == "-" else state.options - chosen
    else:
        state.arguments = rest or state.arguments
    state.status = 0


def _shift(call: Call) -> None:
    state = call.walk.state
    count = int(call.texts[0]) if call.texts and call.texts[0].isdigit() else 1
    if any(isinstance(value, Unknown) and value.many for value in state.arguments):
        return
    fits = count <= len(state.arguments)
    state.arguments = state.arguments[count:] if fits else state.arguments
    state.status = int(not fits)


# Folders


def _cd(call: Call) -> None:
    state = call.walk.state
    targets = [value for value in call.arguments if value not in ("-P", "-L", "--", "-e")]
    target = targets[0] if targets else state.text("HOME") or ""
    if target == "-" or isinstance(target, Unknown) or not (os.path.isabs(target) or isinstance(state.folder, str)):
        _enter(call, Unknown("the folder is known only when it runs", call.place))
        state.status = None
        return
    folder = os.path.normpath(os.path.join(str(state.folder), target))
    if os.path.isdir(folder):
        _enter(call, os.path.realpath(folder) if "-P" in call.texts else folder)
    call.walk.settle(os.path.isdir(folder))


def _enter(call: Call, folder: Value) -> None:
    call.walk.state.folder = folder
    call.walk.state.assign("PWD", folder, call.place)


def _pwd(call: Call) -> None:
    folder = call.walk.state.folder
    call.write(os.path.realpath(folder) if "-P" in call.texts and isinstance(folder, str) else folder)
    call.walk.state.status = 0


# Other text to follow


def _eval(call: Call) -> None:
    if call.all_known:
        follow_text(call.walk, " ".join(call.texts), call.place)
    else:
        _set_by(call)
        call.walk.state.status = None


def _set_by(call: Call) -> None:
    """Text that nobody knows is carried out: it sets variables, unless it is from one that sets up programs."""
    said = _first_unknown(call)
    if not _SET_UP.search(said.why):
        call.walk.state.lose(said)


def _first_unknown(call: Call) -> Unknown:
    return next(value for value in call.arguments if isinstance(value, Unknown))


def _source(call: Call) -> None:
    walk = call.walk
    walk.state.status = None
    path = _found(call.texts[0], walk) if call.all_known and call.texts else None
    if path is None:
        if not call.all_known:
            _read_in(call)
        return
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        walk.state.unseen = Unknown(f"what {path} sets cannot be read", call.place)
        return
    walk.sourced[str(path)] = text
    outer = walk.state.arguments
    walk.state.arguments = list(call.arguments[1:]) or outer
    try:
        follow_text(walk, text, Place(str(path), 1))
    except Leave as leave:
        if leave.how != "return":
            raise
    finally:
        walk.state.arguments = outer


def _read_in(call: Call) -> None:
    """A file that nobody knows sets variables, too: those that the script has set are taken to be left alone."""
    said = _first_unknown(call)
    if "allexport" in call.walk.state.options or _IS_OUTPUT.match(said.why):
        _set_by(call)
    elif not _SET_UP.search(said.why):
        call.walk.state.unseen = said


def _found(name: str, walk: Walk) -> Path | None:
    """A name without a slash is looked for in $PATH first."""
    search = walk.state.text("PATH")
    folders = search.split(":") if "/" not in name and isinstance(search, str) else []
    folders += [walk.state.folder] if isinstance(walk.state.folder, str) else []
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


def follow_text(walk: Walk, text: str, place: Place) -> None:
    """What is not understood is taken to leave alone what the script has set."""
    try:
        commands = read_commands(text, place.file, place.line)
    except (NotUnderstood, RecursionError):
        walk.state.unseen = Unknown(f"what {place} sets is not understood", place)
        walk.state.status = None
        return
    walk.follow(commands)


# Ends and programs


def _leave(call: Call) -> None:
    first = call.texts[0] if call.texts else ""
    levels = int(first) if first.isdigit() and call.name in ("break", "continue") else 1
    if first.isdigit() and call.name in ("return", "exit"):
        call.walk.state.status = int(first)
    raise Leave(call.name, levels)


def _exec(call: Call) -> None:
    arguments = list(call.arguments)
    cleared: list[Value] = []
    while arguments and arguments[0] in ("-a", "-c", "-l", "-cl", "-lc", "--"):
        cleared = ["env", "-i"] if "c" in str(arguments[0]) else cleared
        arguments = arguments[2 if arguments[0] == "-a" else 1 :]
    if arguments:
        call.walk.start([*cleared, *arguments], call.command)
        raise Leave("exit")


def _command(call: Call) -> None:
    arguments = list(call.arguments)
    if not arguments or arguments[0] in ("-v", "-V"):
        call.write(Unknown("where a program is is known only when it runs", call.place))
        call.walk.state.status = None
        return
    name = arguments[0]
    if isinstance(name, str) and BUILTINS.knows(name):
        BUILTINS.carry_out(call.walk, name, arguments[1:], call.declared, call.command)
    else:
        call.walk.start(arguments, call.command)


def _test(call: Call) -> None:
    arguments = list(call.arguments)
    if call.name == "[":
        if arguments[-1:] != ["]"]:
            call.walk.settle(None)
            return
        arguments.pop()
    call.walk.settle(tested(arguments, call.walk.state))


def _true(call: Call) -> None:
    call.walk.settle(True)


def _false(call: Call) -> None:
    call.walk.settle(False)


_HARMLESS = (
    "trap",
    "ulimit",
    "umask",
    "shopt",
    "alias",
    "unalias",
    "hash",
    "times",
    "enable",
    "disown",
    "logout",
    "bind",
)
_UNDECIDED = ("type", "which", "jobs", "kill", "bg", "history", "caller", "complete", "compgen")


class ShellBuiltins:
    def __init__(self) -> None:
        self._known: dict[str, Callable[[Call], None]] = {
            **dict.fromkeys(_HARMLESS, _true),
            **dict.fromkeys(_UNDECIDED, unknown),
            **dict.fromkeys(("sleep", "fg"), _wait),
            **dict.fromkeys(("export", "declare", "typeset", "local", "readonly"), _declare),
            **dict.fromkeys(("read", "mapfile", "readarray", "getopts", "wait"), _forget),
            **dict.fromkeys(("exit", "return", "break", "continue"), _leave),
            **dict.fromkeys((".", "source"), _source),
            **dict.fromkeys(("[", "test"), _test),
            **dict.fromkeys(("cd", "pushd"), _cd),
            **dict.fromkeys(("command", "builtin"), _command),
            ":": _true,
            "true": _true,
            "false": _false,
            "popd": lambda call: _cd(call._replace(arguments=["-"])),
            "unset": _unset,
            "let": _let,
            "set": _set,
            "shift": _shift,
            "pwd": _pwd,
            **PROGRAMS,
            "eval": _eval,
            "exec": _exec,
        }

    def knows(self, name: str) -> bool:
        return name in self._known

    def carry_out(
        self, walk: Walk, name: str, arguments: list[Value], declared: list[Assignment], command: Simple
    ) -> None:
        self._known[name](Call(walk, name, arguments, declared, command))

    def look_inside(self, walk: Walk, arguments: list[Value], command: Simple) -> bool:
        """`bash -c TEXT`: in a shell of its own, which has what was exported."""
        if not isinstance(arguments[0], str) or os.path.basename(arguments[0]) not in SHELLS:
            return False
        options = [value for value in arguments[1:3] if isinstance(value, str)]
        if not options or not re.fullmatch(r"-[a-z]*c", options[0]) or len(options) < 2:
            return False
        outer, walk.state = walk.state, walk.state.copy()
        inner = walk.state
        inner.variables = {name: value for name, value in inner.variables.items() if value.exported or name == "IFS"}
        inner.functions, inner.options, inner.arguments = {}, frozenset(), list(arguments[4:])
        inner.script = str(arguments[3]) if len(arguments) > 3 else arguments[0]
        try:
            follow_text(walk, options[1], command.place)
        except (Leave, Ends):
            pass
        finally:
            walk.state = outer
        return True


BUILTINS = ShellBuiltins()
