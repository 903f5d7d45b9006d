"""`muxctl keys add|list|revoke`: the API keys of the proxy's clients."""

import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muxctl.control_connection import ask
from muxctl.display.tables import table
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.reload import plan_lines
from muxctl.socket_path import find_socket

if TYPE_CHECKING:
    from muxd.config.key_tables import KeyTable

MEANING = """\
add makes a key and prints its secret on stdout, this one time: only a hash is
kept, in muxd.d/keys.toml beside the configuration that muxd runs with (or would
find).  revoke refuses a key from now on.  A running muxd reloads at once.
Without any key nobody needs one; with the first one everybody does."""
EXAMPLES = {
    "muxctl keys add alice": "a key for every model",
    "muxctl keys add ci --models qwen,llama --expires 30d": "for two, for 30 days",
    "muxctl keys add bob --requests-per-minute 60": "for 60 requests a minute",
    "muxctl keys list": "all keys, of every file",
    "muxctl keys revoke alice": "refuse it from now on",
}
EXITS = EVERYWHERE | {
    ExitCode.OK: "done; with muxd down it counts from its next start",
    ExitCode.FAILED: "failed: no such key, one of that name, or not one that muxctl wrote",
    ExitCode.USAGE: "usage, or problems in the configuration",
    ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL],
    ExitCode.UNREACHABLE: "muxd went while it was told of the change, which is kept",
}

COLUMNS = ("NAME", "MODELS", "RPM", "PRIORITY", "COMMENTS", "EXPIRES", "STATE", "FILE")

_PATIENCE = 60.0  # seconds; muxd first checks the whole configuration, perhaps on a slow disk

_OF_ADD = ("models", "requests_per_minute", "priority", "expires", "comments", "view", "admin")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, metavar="ACTION", help="add, list or revoke")
    parser.add_argument("name", nargs="?", metavar="KEY", help="the key's name, for add and revoke")
    parser.add_argument("--models", metavar="A,B", type=_listed, help="what it is for (every model)")
    parser.add_argument("--requests-per-minute", metavar="N", type=_integer, help="at most (no limit)")
    parser.add_argument("--priority", metavar="N", type=_integer, help="from -10 to 10: whose request waits less (0)")
    parser.add_argument("--expires", metavar="WHEN", help='"2027-01-31", "2027-01-31T18:00Z", "30d" (never)')
    parser.add_argument(
        "--no-comments", dest="comments", action="store_const", const=False, help="none in its streams while they wait"
    )
    parser.add_argument("--view", action="store_const", const=True, help="it may look at the console")
    parser.add_argument("--admin", action="store_const", const=True, help="it may operate by the console")
    parser.add_argument("--config", metavar="PATH", type=Path, help="instead of the one that muxd runs with")
    parser.add_argument("--yes", action="store_true", help="do not ask, of the first key or the last")


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None


def run(options: Namespace) -> int:
    if options.action != "add":
        for option in _OF_ADD:
            if getattr(options, option) is not None:
                raise CommandFailed(f"{_flag(option)} is for muxctl keys add", ExitCode.USAGE)
    if (options.name is None) != (options.action == "list"):
        wants = "no name" if options.action == "list" else "the name of a key"
        raise CommandFailed(f"muxctl keys {options.action} takes {wants}", ExitCode.USAGE)
    return _ACTIONS[options.action](options, _Place(options))


def _flag(key: str) -> str:
    if key == "comments":
        return "--no-comments"
    return f"--{key.replace('_', '-')}"


class _Place:
    """The configuration to work on, and the muxd that runs with it, if one does."""

    def __init__(self, options: Namespace) -> None:
        from muxctl.keyfile import KeyFile, entries

        self._socket, running = _running(options.socket)
        explicit: Path | None = options.config
        self._elsewhere = ""
        if self._socket is not None and running is None and explicit is None:
            raise CommandFailed("muxd runs without a configuration file, which keys need: start it with --config")
        if self._socket is not None and explicit is not None and not _is_same(explicit, running):
            self._elsewhere = f"with {running}" if running is not None else "without a file"
        self.config = running if running is not None and not self._elsewhere else _config_of(explicit)
        self.file = KeyFile(self.config)
        self._entries = entries

    def entries(self) -> tuple[list["KeyTable"], list[str]]:
        """Return all keys of the configuration, and the problems of files that cannot be read."""
        return self._entries(self.config)

    def tell_muxd(self, done: str, effect: str, meanwhile: str = "") -> None:
        """Have muxd reload its configuration, and say on stderr what comes of it.

        `done` says what was done to the file, `effect` what that changes, and `meanwhile` what holds until muxd is
        started, where it is not running.  Raises CommandFailed, which also says what was done.
        """
        if self._elsewhere:
            _say(f"{done}; muxd runs {self._elsewhere}, so nothing changes for it")
        elif self._socket is None:
            _say(f"{done}; muxd is not running: {effect} once it is started{meanwhile}")
        else:
            try:
                answer = ask(self._socket, "POST", "/v1/reload", {"dry_run": False}, _PATIENCE)
            except CommandFailed as failure:
                raise CommandFailed(
                    f"{done}, but muxd has not taken it over: {failure.message}", failure.code
                ) from None
            _say(f"{done}; muxd has taken it over: {effect} from now on")
            if answer["plan"]:
                _say("what else was waiting in the configuration went with it:\n")
                _say("\n".join(plan_lines(answer)))


def _running(socket: str | None) -> tuple[str | None, Path | None]:
    """Return the socket of the running muxd and its configuration file, each None if there is none."""
    try:
        path = find_socket(socket)
        config = ask(path, "GET", "/v1/status")["config"]
    except CommandFailed as failure:
        if failure.code != ExitCode.UNREACHABLE:
            raise
        return None, None
    return path, Path(config) if config is not None else None


def _config_of(explicit: Path | None) -> Path:
    """Return the absolute path of the configuration that muxd would start with.  Raises CommandFailed."""
    from muxd.config.default_paths import find_config
    from muxd.errors import ConfigError

    try:
        return find_config(explicit, os.environ).absolute()
    except ConfigError as error:
        raise CommandFailed(error.message, ExitCode.USAGE) from None


def _is_same(one: Path, other: Path | None) -> bool:
    try:
        return other is not None and one.samefile(other)
    except OSError:
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _add(options: Namespace, place: _Place) -> int:
    import secrets
    from hashlib import sha256

    settings = _table_from(options, place.config)
    secret = f"muxd-{secrets.token_urlsafe(32)}"
    made = {"name": options.name, "secret_sha256": sha256(secret.encode()).hexdigest(), **settings}
    _check_free(options.name, place)
    if not place.entries()[0]:
        _announce_first(options, place.config)
    with place.file.locked():
        _check_free(options.name, place)
        place.file.put(options.name, made)
    # The secret, which nobody can find again, is printed before muxd is told: that may take long, or fail.
    value = {"name": options.name, "secret": secret, "file": str(place.file.path)}
    print(json.dumps(value) if options.json else secret, flush=True)
    _say("this is the only time that the secret is shown: put it where its holder finds it")
    place.tell_muxd(f"{options.name} is in {place.file.path}", "it works")
    return ExitCode.OK


def _announce_first(options: Namespace, config: Path) -> None:
    """Say whom the first key shuts out, and ask for consent.  Raises CommandFailed if the answer is no."""
    from muxctl.door import anybody

    _say(
        f"{options.name} is the first API key: until now {anybody(config)} may use the models without one; "
        "with it everybody needs a key, and whoever shows none gets 401"
    )
    _ask(options, "make it?", "no key was made; nothing was changed")


def _ask(options: Namespace, question: str, otherwise: str) -> None:
    """Ask a person at a terminal, unless --yes is given.  Raises CommandFailed if the answer is no."""
    if options.yes or options.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed(otherwise)


def _table_from(options: Namespace, config: Path) -> dict[str, Any]:
    """Return the new key's table from the options, checked like a configuration.  Raises CommandFailed."""
    from muxd.config.declarations import keys_of
    from muxd.config.readers import Base
    from muxd.config.schema import Key

    settings = {name: value for name in _OF_ADD if (value := getattr(options, name)) is not None}
    if "expires" in settings:
        settings["expires"] = _expiry(settings["expires"])
    for name, value in {"name": options.name, **settings}.items():
        try:
            keys_of(Key)[name].read(value, Base(Path(), Path()))
        except ValueError as error:
            raise CommandFailed(f"{name if name == 'name' else _flag(name)}: {error}", ExitCode.USAGE) from None
    _check_models(settings.get("models", []), config)
    return settings


def _expiry(text: str) -> Any:
    """Return the datetime in UTC that --expires says, as a date or as a time from now.  Raises CommandFailed."""
    from datetime import UTC, datetime

    from muxd.config.key_readers import moment
    from muxd.config.readers import Base
    from muxd.config.units import parse_duration

    try:
        at = time.time() + parse_duration(text)
    except ValueError:
        try:
            at = moment(text, Base(Path(), Path()))
        except ValueError as error:
            raise CommandFailed(f"--expires: {error}, or a time from now on: 12h, 30d", ExitCode.USAGE) from None
    try:
        when = datetime.fromtimestamp(int(at), UTC)
    except (OverflowError, ValueError):
        raise CommandFailed(
            f"--expires: {text} is too far away; leave it out for a key that stays", ExitCode.USAGE
        ) from None
    if at <= time.time():
        raise CommandFailed(f"--expires: {text} is over already", ExitCode.USAGE)
    return when


def _check_models(names: list[str], config: Path) -> None:
    """Raise CommandFailed if one of the names is no model of the configuration."""
    from muxd.config import salvage_config
    from muxd.config.names import did_you_mean
    from muxd.errors import ConfigError

    try:
        models = salvage_config(config, os.environ).models
    except ConfigError as error:
        raise _unusable(error.problems) from None
    known = [name for model in models for name in (model.name, *model.served_names)]
    for name in names:
        if name not in known:
            raise CommandFailed(
                f"--models: no model {name}; {did_you_mean(name, dict.fromkeys(known))}", ExitCode.NO_MODEL
            )


def _unusable(problems: list[str]) -> CommandFailed:
    return CommandFailed(
        "\n  ".join(["the configuration cannot be used; nothing was changed:", *problems]), ExitCode.USAGE
    )


def _check_free(name: str, place: _Place) -> None:
    """Raise CommandFailed if a new key cannot have the name.

    It can have that of a key that is expired or revoked, if muxctl wrote that one and so can replace it.
    """
    from muxctl.display.keys import state_of

    entries, broken = place.entries()
    if broken:
        raise _unusable(broken)
    for entry in entries:
        if entry.table.get("name") != name:
            continue
        if (state := state_of(entry.table)) == "active":
            raise CommandFailed(f"there is a key {name} already, at {entry}; revoke it first, or use another name")
        if not place.file.has(entry):
            raise CommandFailed(
                f"{name} is the name of a key that is {state}, at {entry}; remove it there, or use another"
            )


def _revoke(options: Namespace, place: _Place) -> int:
    name = options.name
    if _is_last(name, place):
        _key_to_revoke(name, place)  # raises before the question if it cannot be revoked
        question = f"{name} is the last API key that works: without it every request to the proxy gets 401; revoke it?"
        _ask(options, question, "no key was revoked; nothing was changed")
    with place.file.locked():
        entry = _key_to_revoke(name, place)
        revoked = bool(entry.table.get("revoked"))
        if not revoked:
            place.file.put(name, {**entry.table, "revoked": True})
    if options.json:
        print(json.dumps({"name": name, "revoked": True, "file": str(place.file.path)}))
    done = f"{name} was revoked before, in {place.file.path}" if revoked else f"{name} is revoked in {place.file.path}"
    # Proxies get their keys from muxd, and outlive it.
    place.tell_muxd(done, "it is refused", "; a proxy that still runs takes it until then, or until it is restarted")
    _tell_of_last(place)
    return ExitCode.OK


def _is_last(name: str, place: _Place) -> bool:
    """Say whether the key works and no other does."""
    from muxctl.display.keys import state_of

    entries, broken = place.entries()
    working = [entry.table.get("name") for entry in entries if state_of(entry.table) == "active"]
    return not broken and working == [name]


def _tell_of_last(place: _Place) -> None:
    """Say on stderr if no key works any more: a revoked key keeps the proxy from being open to everybody."""
    from muxctl.display.keys import state_of
    from muxctl.door import without_keys

    entries, broken = place.entries()
    if broken or any(state_of(entry.table) == "active" for entry in entries):
        return
    files = ", ".join(dict.fromkeys(str(entry.source.file) for entry in entries))
    _say(
        "no API key is left that works: every request to the proxy gets 401 until muxctl keys add NAME makes another; "
        f"without any [[keys]] in {files}, {without_keys(place.config)}"
    )


def _key_to_revoke(name: str, place: _Place) -> "KeyTable":
    """Return the key of that name in muxctl's own file.

    Raises CommandFailed, which says where else the key is, or which keys there are.
    """
    entries, broken = place.entries()
    found = [entry for entry in entries if entry.table.get("name") == name]
    for entry in found:
        if place.file.has(entry):
            return entry
    if found:
        file, line = found[0].source.file, found[0].line
        raise CommandFailed(
            f"muxctl did not write the key {name}, and changes no file of yours: "
            f"write revoked = true below [[keys]] in line {line} of {file}, then muxctl reload"
        )
    if broken:
        raise _unusable(broken)
    from muxd.config.names import did_you_mean

    names = [str(entry.table["name"]) for entry in entries if "name" in entry.table]
    raise CommandFailed(f"no key {name}; {did_you_mean(name, names)}")


def _list(options: Namespace, place: _Place) -> int:
    from muxctl.display.keys import as_json, rows

    entries, broken = place.entries()
    if options.json:
        print(json.dumps({"keys": [as_json(entry) for entry in entries]}, indent=2))
    elif entries:
        print("\n".join(table([COLUMNS, *rows(entries)], right=(2, 3))))
    elif not broken:
        print("no keys; muxctl keys add NAME makes one")
    if broken:
        raise CommandFailed("\n  ".join(["not all files can be read:", *broken]), ExitCode.USAGE)
    return ExitCode.OK


_ACTIONS: dict[str, Callable[[Namespace, _Place], int]] = {"add": _add, "list": _list, "revoke": _revoke}
