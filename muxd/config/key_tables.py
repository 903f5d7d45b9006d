"""`[[keys]]`: the API keys that clients show the proxy.

The only array of tables there is, and the only thing that adds up over several files: a later
file changes no key of an earlier one.  A secret is turned into its SHA-256 here, and neither is
ever part of a message.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import Any, NamedTuple

from .lines import KeyPath, line_of
from .names import MODEL_NAME, did_you_mean
from .problems import Problems, shown_file
from .readers import Base, Reader, boolean, integer, names, unknown_key
from .schema import Key, Model
from .sources import Source
from .units import shown

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_FORM = 'write [[keys]], and below it name = "..." and its secret_sha256 or secret_env'


def key_name(value: Any, base: Base) -> str:
    if isinstance(value, str) and MODEL_NAME.fullmatch(value):
        return value
    raise ValueError(
        f"{shown(value)} is not a key's name; use a-z, 0-9, '.', '_' and '-', and begin with a letter or digit"
    )


def digest(value: Any, base: Base) -> str:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value.lower()
    raise ValueError("not a SHA-256; write its 64 hex digits, as `printf %s SECRET | sha256sum` prints them")


def variable(value: Any, base: Base) -> str:
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    raise ValueError("not the name of an environment variable; use letters, digits and _: the secret is its value")


def some_names(value: Any, base: Base) -> tuple[str, ...]:
    """One at least: an empty list looks like "none", and a key without `models` is for all."""
    if found := names(value, base):
        return found
    raise ValueError("an empty list allows no model; name some, or leave it out: the key is for all then")


def moment(value: Any, base: Base) -> float:
    """Seconds since the epoch; UTC where no offset is given; a date is its first moment."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{shown(value)} is not a date; write 2027-01-31, or 2027-01-31T18:00:00Z")


KEY: dict[str, Reader] = {
    "name": key_name,
    "secret_sha256": digest,
    "secret_env": variable,
    "models": some_names,
    "requests_per_minute": integer(1, 1_000_000),
    "priority": integer(-10, 10),
    "expires": moment,
    "comments": boolean,
    "revoked": boolean,
}


def read_keys(
    sources: Sequence[Source], models: Sequence[Model], base: Base, environ: Mapping[str, str], problems: Problems
) -> tuple[Key, ...]:
    """The keys of all files, in their order; one with a problem is left out."""
    reading = _KeyReading(models, base, environ, problems)
    return tuple(key for entry in _entries(sources, problems) if (key := reading.key(entry)) is not None)


class KeyTable(NamedTuple):
    """One table, and where it stands."""

    source: Source
    path: KeyPath  # ("keys", "0"), ("keys", "1"), ...: in this source
    table: dict[str, Any]

    def __str__(self) -> str:
        return f"{shown_file(self.source.file)}:{self.line}"

    @property
    def line(self) -> int:
        return line_of(self.path, self.source.lines) or 0


def entries_of(source: Source) -> list[KeyTable]:
    """The tables of one file, as they are written; raises ValueError where these are none."""
    tables = source.table.get("keys", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"not an array of tables; {_FORM}")
    return [KeyTable(source, ("keys", str(place)), table) for place, table in enumerate(tables)]


def _entries(sources: Sequence[Source], problems: Problems) -> Iterator[KeyTable]:
    for source in sources:
        try:
            yield from entries_of(source)
        except ValueError as error:
            problems.add(("keys",), str(error), source)


class _KeyReading:
    def __init__(self, models: Sequence[Model], base: Base, environ: Mapping[str, str], problems: Problems) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems
        self._meant = {name: model.name for model in models for name in (model.name, *model.served_names)}
        # Where a model could not be read, its served names are not known: then nothing is said of unknown ones.
        self._all_models = not any(path[0] in ("models", "defaults") for path in problems.paths())
        self._names: dict[str, KeyTable] = {}
        self._secrets: dict[str, KeyTable] = {}

    def key(self, entry: KeyTable) -> Key | None:
        """None where something is wrong with it, which is told."""
        given: dict[str, Any] = {}
        wrong = list(self._wrong(entry, given))
        for key, text in wrong:
            self._problems.add((*entry.path, key), text, entry.source)
        return None if wrong else Key(**given)

    def _wrong(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What is wrong, by key; what is not is put into `given`."""
        for key, value in entry.table.items():
            if (read := KEY.get(key)) is None:
                yield key, _unknown(key, value)
            else:
                try:
                    given[key] = read(value, self._base)
                except ValueError as error:
                    yield key, str(error)
        yield from self._names_wrong(entry, given)
        yield from self._secret_wrong(entry, given)
        if "models" in given:
            yield from self._models_wrong(given)

    def _names_wrong(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "name" not in entry.table:
            yield "name", "missing; give each key one of its own: muxctl and the log call it so"
        elif (name := given.get("name")) is not None:
            first = self._names.setdefault(name, entry)
            if first is not entry:
                yield "name", f'"{name}" is already the name of the key at {first}; use another'

    def _secret_wrong(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Leaves secret_sha256 alone in `given`."""
        name = given.pop("secret_env", None)
        if {"secret_sha256", "secret_env"} <= entry.table.keys():
            yield "secret_env", "secret_sha256 is there too; keep one of them"
            return
        if name is not None:
            secret = self._environ.get(name, "").strip()
            if not secret:
                yield "secret_env", f"{name} is not set, or empty, where muxd runs; set it, or use secret_sha256"
                return
            given["secret_sha256"] = sha256(secret.encode(errors="surrogateescape")).hexdigest()
            given["variable"] = name
        elif not entry.table.keys() - KEY.keys() and not {"secret_sha256", "secret_env"} & entry.table.keys():
            yield "secret_sha256", "missing; `muxctl keys add` makes a key with its own, or name a secret_env"
        if (hashed := given.get("secret_sha256")) is not None:
            first = self._secrets.setdefault(hashed, entry)
            if first is not entry:
                which = "secret_env" if name is not None else "secret_sha256"
                yield which, f"the key at {first} has the same secret; give each its own"

    def _models_wrong(self, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Leaves names of models in `given`; a name that means none stays, so that it allows none."""
        for name in given["models"]:
            if name not in self._meant and self._all_models:
                yield "models", f"no model {shown(name)}; {did_you_mean(name, self._meant)}"
        given["models"] = tuple(dict.fromkeys(self._meant.get(name, name) for name in given["models"]))


def _unknown(key: str, value: Any) -> str:
    if key == "secret":
        return "a secret is not written here; write secret_sha256, its SHA-256 in hex, or secret_env"
    return unknown_key(key, value, list(KEY), in_model=False)
