"""Reading of `[[keys]]`: the API keys that clients show the proxy.

`[[keys]]` is the configuration's only array of tables, and the only part that adds up over several files: a later file
changes no key of an earlier one.  A secret in an environment variable is turned into its SHA-256 here; neither the
secret nor the SHA-256 is ever part of a message.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from .declarations import keys_of
from .lines import KeyPath, line_of
from .model_schema import Model
from .names import did_you_mean
from .problems import Problems, shown_file
from .readers import Base
from .schema import Key
from .sources import Source
from .units import shown

_FORM = 'write [[keys]], and below it name = "..." and its secret_sha256 or secret_env'


def read_keys(
    sources: Sequence[Source], models: Sequence[Model], base: Base, environ: Mapping[str, str], problems: Problems
) -> tuple[Key, ...]:
    """Return the keys of all files, in the order of the files; a key with a problem is noted and left out."""
    reading = _KeyReading(models, base, environ, problems)
    return tuple(key for entry in _entries(sources, problems) if (key := reading.key(entry)) is not None)


class KeyTable(NamedTuple):
    """One table of `[[keys]]` as parsed, and where it stands."""

    source: Source
    path: KeyPath  # ("keys", "0"), ("keys", "1"), ..., counted within `source`
    table: dict[str, Any]

    def __str__(self) -> str:
        return f"{shown_file(self.source.file)}:{self.line}"

    @property
    def line(self) -> int:
        """Return the line of the table's header, from 1; 0 where it is not known."""
        return line_of(self.path, self.source.lines) or 0


def entries_of(source: Source) -> list[KeyTable]:
    """Return the tables of `[[keys]]` in one file as parsed.  Raise ValueError where `keys` is no array of tables."""
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
    """One pass over the keys of all files; names and secrets must differ from those of the keys read before."""

    def __init__(self, models: Sequence[Model], base: Base, environ: Mapping[str, str], problems: Problems) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems
        self._model_of = {name: model.name for model in models for name in (model.name, *model.served_names)}
        # Where a model could not be read, its served names are not known, and no key is blamed for an unknown model.
        self._all_models = not any(path[0] in ("models", "defaults") for path in problems.paths())
        self._names: dict[str, KeyTable] = {}
        self._secrets: dict[str, KeyTable] = {}

    def key(self, entry: KeyTable) -> Key | None:
        """Return the key of one table; None where something is wrong with the table, which is noted as a problem."""
        given: dict[str, Any] = {}
        wrong = list(self._read(entry, given))
        for key, text in wrong:
            self._problems.add((*entry.path, key), text, entry.source)
        return None if wrong else Key(**given)

    def _read(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Put the fields of a `Key` into `given`, and yield what is wrong: the TOML key to blame, and the text."""
        for key, value in entry.table.items():
            if (declared := keys_of(Key).get(key)) is None:
                yield key, _unknown_key(key)
            else:
                try:
                    given[key] = declared.read(value, self._base)
                except ValueError as error:
                    yield key, str(error)
        yield from self._check_name(entry, given)
        yield from self._check_secret(entry, given)
        if "models" in given:
            yield from self._check_models(given)

    def _check_name(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "name" not in entry.table:
            yield "name", "missing; give each key one of its own: muxctl and the log call it so"
        elif (name := given.get("name")) is not None:
            first = self._names.setdefault(name, entry)
            if first is not entry:
                yield "name", f'"{name}" is already the name of the key at {first}; use another'

    def _check_secret(self, entry: KeyTable, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Check the secret, and put its `secret_sha256` into `given` where a variable holds it."""
        name = given.get("secret_env")
        if {"secret_sha256", "secret_env"} <= entry.table.keys():
            yield "secret_env", "secret_sha256 is there too; keep one of them"
            return
        if name is not None:
            secret = self._environ.get(name, "").strip()
            if not secret:
                yield "secret_env", f"{name} is not set, or empty, where muxd runs; set it, or use secret_sha256"
                return
            given["secret_sha256"] = sha256(secret.encode(errors="surrogateescape")).hexdigest()
        elif not entry.table.keys() - keys_of(Key).keys() and not {"secret_sha256", "secret_env"} & entry.table.keys():
            yield "secret_sha256", "missing; `muxctl keys add` makes a key with its own, or name a secret_env"
        if (hashed := given.get("secret_sha256")) is not None:
            first = self._secrets.setdefault(hashed, entry)
            if first is not entry:
                which = "secret_env" if name is not None else "secret_sha256"
                yield which, f"the key at {first} has the same secret; give each its own"

    def _check_models(self, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Check `models`, and replace served names in `given` by names of models.

        An unknown name stays: a key with unknown names alone must not become a key without `models`, good for all.
        """
        for name in given["models"]:
            if name not in self._model_of and self._all_models:
                yield "models", f"no model {shown(name)}; {did_you_mean(name, self._model_of)}"
        given["models"] = tuple(dict.fromkeys(self._model_of.get(name, name) for name in given["models"]))


def _unknown_key(key: str) -> str:
    if key == "secret":
        return "a secret is not written here; write secret_sha256, its SHA-256 in hex, or secret_env"
    return f"unknown key; {did_you_mean(key, keys_of(Key))}"
