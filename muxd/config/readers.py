"""Readers: one function per kind of value, from a value as parsed from TOML to the one that the configuration keeps.

A reader raises ValueError, whose text says what is wrong and what to do.  It does not know which key it reads for.
"""

import os
import re
import stat
from collections.abc import Callable, Collection
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct

from .devices import is_name
from .names import did_you_mean
from .sources import why_unreadable
from .units import parse_duration, parse_size, show_duration, show_size, shown


class Base(Struct, frozen=True):
    """Folders that relative paths and "~" in a file start from."""

    directory: Path
    home: Path
    host: bool = True  # this is the host that the file is for: what it names must be here

    def resolve(self, text: str) -> Path:
        """Return an absolute path; ".." is resolved in the text, symbolic links are left alone.

        Raise ValueError for a path that is meant to be expanded, such as "$HOME/x" or "~user/x", unless a file of that
        very name exists.
        """
        if text == "~" or text.startswith("~/"):
            found = self.home / text[2:]
        else:
            found = Path(os.path.normpath(self.directory / text))
        if (wanted := _EXPANSION.search(text) or _HOME_OF_ANOTHER.match(text)) and not os.path.lexists(found):
            raise ValueError(f"{wanted[0]} would be taken literally: {_ONLY_HOME}")
        return found


T = TypeVar("T")

#: Takes a value as parsed, and the base of its paths; returns the value to keep, or raises ValueError.
Reader = Callable[[Any, Base], T]


class Address(NamedTuple):
    """An address to listen at; `host` is a name or an address, without brackets."""

    host: str
    port: int  # 0: the kernel chooses one

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_EXPANSION = re.compile(r"\$\{[^}]*\}?|\$\([^)]*\)?|\$[A-Za-z_]\w*")
_HOME_OF_ANOTHER = re.compile(r"~[^/]+")
_ONLY_HOME = 'only a leading "~/" is expanded; write the path in full'
_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com", "modelscope.cn", "www.modelscope.cn")
_HUB_SCHEMES = ("hf", "huggingface", "hub")
_AN_ID = "the id alone, such as Qwen/Qwen3-14B"
_OBJECT_STORES = ("s3://", "gs://", "az://", "redis://", "valkey://")  # from which SGLang itself loads weights
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?")
_SERVER_URL = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_URL_PATH = re.compile(r"(?P<server>https?://[^/]+)(?P<path>(/[A-Za-z0-9._~-]+)+)/*")
_LABEL = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def choice(*allowed: str) -> Reader[str]:
    """Return a reader of one of a few strings."""

    def read(value: Any, base: Base) -> str:
        if value in allowed and isinstance(value, str):
            return value
        raise ValueError(f"{shown(value)} is not known; use {' or '.join(map(shown, allowed))}")

    return read


def boolean(value: Any, base: Base) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{shown(value)} is neither true nor false; write true or false without quotes")


def integer(low: int, high: int) -> Reader[int]:
    """Return a reader of a whole number from `low` to `high`, both included."""

    def read(value: Any, base: Base) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{shown(value)} is not a whole number; write one from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range; use {low} to {high}")
        return value

    return read


def count_or_auto(low: int, high: int) -> Reader[int | None]:
    """Return a reader of a whole number from `low` to `high`, or of "auto", which is read as None."""

    def read(value: Any, base: Base) -> int | None:
        if value == "auto":
            return None
        if isinstance(value, str):
            raise ValueError(f'{shown(value)} is not known; write a number without quotes, or "auto"')
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f'{shown(value)} is not a whole number; write one from {low} to {high}, or "auto"')
        if not low <= value <= high:
            raise ValueError(f'{value} is out of range; use {low} to {high}, or "auto"')
        return value

    return read


def number(above: float, high: float) -> Reader[float]:
    """Return a reader of a number greater than `above` and at most `high`, without a unit."""

    def read(value: Any, base: Base) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{shown(value)} is not a number; write one without quotes")
        if not above < value <= high:
            raise ValueError(f"{value} is out of range; use more than {above:g} and at most {high:g}")
        return float(value)

    return read


def duration(low: float = 0.0, *, endless: bool = False) -> Reader[float]:
    """Return a reader of a duration of at least `low` seconds, in seconds; "inf" is accepted only with `endless`."""

    def read(value: Any, base: Base) -> float:
        seconds = parse_duration(value)
        if seconds < low:
            raise ValueError(f"{shown(value)} is too short; use at least {show_duration(low)}")
        if not (endless or isfinite(seconds)):
            raise ValueError(f"{shown(value)} is not allowed here; give a finite duration")
        return seconds

    return read


_RUNG = re.compile(r"(?P<after>.+?)\s*->\s*(?P<level>[0-9])")


def ladder(value: Any, base: Base) -> tuple[tuple[float, int], ...]:
    """Read the steps of an idle model, "TIME -> LEVEL" each, and return seconds without a use, and sleep levels."""
    if not isinstance(value, list):
        raise ValueError(f'{shown(value)} is not a list; write ["10min -> 1", "1h -> 3"]')
    rungs: list[tuple[float, int]] = []
    for step in value:
        match = _RUNG.fullmatch(step.strip()) if isinstance(step, str) else None
        if match is None or int(match["level"]) > 3:
            raise ValueError(
                f'{shown(step)} is no step; write "TIME -> LEVEL", as in "10min -> 1", with a level of 0 to 3'
            )
        after, level = _positive_duration(match["after"].strip()), int(match["level"])
        if rungs and after <= rungs[-1][0]:
            raise ValueError(f"{shown(step)} comes no later than the step before it; put the shorter time first")
        if rungs and level <= rungs[-1][1]:
            raise ValueError(
                f"{shown(step)} climbs: an idle model only sleeps deeper; use a level above {rungs[-1][1]}"
            )
        rungs.append((after, level))
    return tuple(rungs)


def _positive_duration(text: str) -> float:
    if not 0 < (seconds := parse_duration(float(text) if text.isdecimal() else text)) < inf:
        raise ValueError(f'{shown(text)} is not a time after which something happens; write "10min", "1h"')
    return seconds


_SHELTER = re.compile(r"never\s+within\s+(?P<time>.+?)\s+of\s+use")


def eviction_rule(value: Any, base: Base) -> float:
    """Read when a model may be sent away for another one; return for how many seconds after its last use it may not."""
    if value == "always":
        return 0.0
    if value == "never":
        raise ValueError('"never" is what pinned = true is for; write that, or "never within 15min of use"')
    match = _SHELTER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is not known; use "always", or "never within 15min of use"')
    return _positive_duration(match["time"])


def size(low: int = 0) -> Reader[int]:
    """Return a reader of a size of at least `low` bytes, in bytes."""

    def read(value: Any, base: Base) -> int:
        if (count := parse_size(value)) < low:
            raise ValueError(f"{shown(value)} is too small; use at least {show_size(low)}")
        return count

    return read


def text(value: Any, base: Base) -> str:
    """Read one line of text that is not empty and has no control characters."""
    if isinstance(value, str) and value and not _CONTROL.search(value):
        return value
    raise ValueError(f"{shown(value)} is not usable; write one line of text in quotes")


def texts(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of strings, unchanged, such as the flags of a command line; only NUL is refused."""
    if isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value):
        return tuple(value)
    raise ValueError(f'{shown(value)} is not a list of strings; write ["...", "..."]')


def names(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of names, none of them empty or there twice."""
    for item in texts(value, base):
        text(item, base)
    return _distinct(value)


def header_names(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of names of HTTP headers, and return them in lower case."""
    found = names(value, base)
    for item in found:
        if not _TOKEN.fullmatch(item):
            raise ValueError(f"{shown(item)} is not the name of a header; use letters, digits and -")
    return _distinct([item.lower() for item in found])


def host_names(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of host names or addresses without a port, and return them in lower case.

    "*.NAME" stands for every name below NAME, "*" for every name.
    """
    found = [item.lower().strip("[]").removesuffix(".") for item in names(value, base)]
    for item, given in zip(found, value, strict=True):
        if not _HOST.fullmatch(item):
            raise ValueError(f'{shown(given)} is not the name of a host; write "gpu1.example", without scheme and port')
    return _distinct(found)


def origins(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of origins, and return them as browsers send them: lower case, without the scheme's usual port.

    "*" stands for every origin; "null" is the origin of local files and sandboxed pages.
    """
    found = [_origin(item) for item in names(value, base)]
    return _distinct(found)


def _origin(given: str) -> str:
    item = given.lower()
    if item in ("*", "null"):
        return item
    parts = _ORIGIN.fullmatch(item)
    if parts is None:
        raise ValueError(
            f'{shown(given)} is not an origin; write scheme, host and port alone: "http://localhost:3000", or "*"'
        )
    usual = {"http": ":80", "https": ":443"}.get(parts["scheme"])  # browsers leave this port out
    return item.removesuffix(usual) if usual is not None and parts["port"] == usual else item


def server_urls(value: Any, base: Base) -> tuple[str, ...]:
    """Read addresses of servers: of HTTP, with or without TLS, or of Unix sockets."""
    return _distinct([_server_url(url) for url in texts(value, base)])


def provider_urls(value: Any, base: Base) -> tuple[str, ...]:
    """Read addresses of servers, which may have a path before that of each route."""
    urls = []
    for given in texts(value, base):
        split = _URL_PATH.fullmatch(given)
        if split is not None and (path := split["path"]).endswith("/v1"):
            without = split["server"] + path.removesuffix("/v1")
            raise ValueError(f"{shown(given)}: /v1 is of the routes; write {shown(without)}")
        urls.append(_server_url(split["server"]) + split["path"] if split is not None else _server_url(given))
    return _distinct(urls)


def prefill_urls(value: Any, base: Base) -> tuple[str, ...]:
    """Read addresses of servers, each with a port behind a space, or without one."""
    for each in texts(value, base):
        url, space, port = each.partition(" ")
        _server_url(url)
        if space and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            raise ValueError(f'{shown(port)} is no bootstrap port; write "URL PORT", or the URL alone')
    return _distinct(value)


def _server_url(given: str) -> str:
    if given.startswith("unix:"):
        if not given.startswith("unix:/") or _CONTROL.search(given):
            raise ValueError(f'{shown(given)} is no Unix socket; write its full path, as in "unix:/run/qwen.sock"')
        return given
    match = _SERVER_URL.fullmatch(given.rstrip("/"))
    if match is None or int(match["port"] or 1) > 65535:
        raise ValueError(
            f'{shown(given)} is no address of a server; write scheme, host and port alone, as in "http://10.0.0.7:30000"'
        )
    return given.rstrip("/")


def labels(value: Any, base: Base) -> dict[str, str]:
    """Read labels of Kubernetes and their values."""
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is not a table; write {{ app = "qwen" }}')
    for name, wanted in value.items():
        if not isinstance(wanted, str) or not _LABEL.fullmatch(name) or not _LABEL_VALUE.fullmatch(wanted):
            raise ValueError(f"{shown(name)} = {shown(wanted)} is no label of Kubernetes; correct it")
    return dict(value)


def params(value: Any, base: Base) -> dict[str, Any]:
    """Read a table of a request's top-level fields, with values that JSON can express."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a table; write {{ temperature = 0.2 }}")
    _refuse_proxy_fields(value)
    _check_json(value)
    return dict(value)


def stripped(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of names of a request's top-level fields."""
    found = names(value, base)
    _refuse_proxy_fields(found)
    return found


def _refuse_proxy_fields(fields: Collection[str]) -> None:
    """Raise ValueError for the fields by which the proxy itself handles a request."""
    if "model" in fields:
        raise ValueError("model cannot be changed here; use upstream_name")
    if "stream" in fields:
        raise ValueError("stream is the client's to say; leave it out")


def _check_json(value: Any) -> None:
    """Raise ValueError for a value that JSON cannot express, such as a date or NaN."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_json(item)
    elif not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError(f"{shown(value)} cannot be said in JSON; use text, numbers, true, false, lists and tables")


#: What `gpu_names` returns for any GPUs, before their number.
ANY_GPUS = "auto:"
_ANY_GPUS = re.compile("auto(?::([1-9][0-9]?))?")


def gpu_names(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of GPUs, by number or by name (UUID), as text; `devices` finds their ids.  Or "auto:N": any N.

    One may be there again for another replica, which `load` knows.
    """
    if isinstance(value, str) and (match := _ANY_GPUS.fullmatch(value)):
        return (f"{ANY_GPUS}{match[1] or 1}",)
    if not isinstance(value, list) or not value or not all(_may_be_gpu(item) for item in value):
        raise ValueError(f'{shown(value)} is not a list of GPU numbers; write [0] or [0, 1], or "auto" for any')
    if (least := min((item for item in value if isinstance(item, int)), default=0)) < 0:
        raise ValueError(f"{least} is not a GPU number; they count from 0")
    return tuple(map(str, value))


def gpu_sizes(value: Any, base: Base) -> dict[str, int]:
    """Read a table of sizes by GPU, which has a number or a name (UUID); `devices` finds their ids."""
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is not a table; write {{ 0 = "40GiB" }}')
    for name in value:
        if not (name.isdigit() or is_name(name)):
            raise ValueError(f"{shown(name)} is not a GPU; write its number, or its UUID")
    read = size(1)
    return {name: read(given, base) for name, given in value.items()}


def _may_be_gpu(item: Any) -> bool:
    return (isinstance(item, int) and not isinstance(item, bool)) or (isinstance(item, str) and is_name(item))


def environment(value: Any, base: Base) -> dict[str, str]:
    """Read a table of environment variables."""
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is not a table; write {{ NAME = "value" }}')
    for name, content in value.items():
        if not ENV_NAME.fullmatch(name):
            raise ValueError(f"{shown(name)} is not the name of a variable; use letters, digits and _")
        if not isinstance(content, str) or "\0" in content:
            raise ValueError(f"the value of {name} is not text; put it in quotes")
    return dict(value)


def path(value: Any, base: Base) -> Path:
    """Read a path, and return it absolute; nothing need be there."""
    return base.resolve(text(value, base))


def launch_script(value: Any, base: Base) -> Any:
    """Read a launch script, "FILE" or { file = "FILE", args = ["..."] }, and return its path and its arguments.

    `importers.script_models` makes a `Script` of the two.
    """
    if not isinstance(value, dict):
        return path(value, base), ()
    if unknown := next((key for key in value if key not in ("file", "args")), None):
        raise ValueError(f"{shown(unknown)} is not known here; {did_you_mean(unknown, ['file', 'args'])}")
    if "file" not in value:
        raise ValueError('names no file; write { file = "launch.sh", args = ["..."] }')
    return path(value["file"], base), texts(value.get("args", []), base)


def directory(value: Any, base: Base) -> Path:
    """Read the path of a folder that exists."""
    found = path(value, base)
    if not base.host or stat.S_ISDIR(_mode(found)):
        return found
    raise ValueError(f"no directory {found}; create it or correct the path")


def weights(value: Any, base: Base) -> str:
    """Read where a model is: a local path, a Hub id or a URL of an object store.

    A path, recognized by its beginning, must exist and is returned absolute; the others are returned unchanged.
    """
    given = text(value, base)
    if not given.startswith(("/", "./", "../", "~")):
        is_id = _HUB_ID.fullmatch(given) and given.partition("/")[0] not in _HUB_HOSTS
        if not (is_id or given.startswith(_OBJECT_STORES)):
            raise ValueError(f"{shown(given)} is neither a Hub id nor a path: {_why_no_hub_id(given, base)}")
        return given
    found = base.resolve(given)
    if not base.host or _mode(found):
        return str(found)
    raise ValueError(f"nothing at {found}; correct the path, or give a Hub id such as Qwen/Qwen3-14B")


def _why_no_hub_id(given: str, base: Base) -> str:
    """Return why `given` is no Hub id, and what was probably meant."""
    if wanted := _EXPANSION.search(given):
        return f"{wanted[0]} would be taken literally: {_ONLY_HOME}"
    scheme, is_url, rest = given.rpartition("://")
    host, _, path = rest.partition("/")
    if host in _HUB_HOSTS or (is_url and scheme in _HUB_SCHEMES):
        parts = (path if host in _HUB_HOSTS else rest).partition("?")[0].split("/")
        meant = "/".join(parts[1:3] if parts[0] == "models" else parts[:2])
        return f"{'a URL' if is_url else 'an address'}; write {meant if _HUB_ID.fullmatch(meant) else _AN_ID}"
    if is_url:
        return f"a URL; write {_AN_ID}"
    for found in (f"./{given}", f"/{given}"):
        if os.path.exists(base.directory / found):
            return f"something of that name is here: write {shown(found)}"
    if (tagged := given.partition(":"))[1] and _HUB_ID.fullmatch(tagged[0]):
        return f"an id has no tag; write {tagged[0]}"
    begins = 'a path begins with "/", "./", "../" or "~/"'
    if given.count("/") > 1:
        return f'an id has one "/" at most; {begins}: write {shown("/" + given)}, if that is meant'
    return f"an id has letters, digits, '.', '_', '-' and at most one '/', as Qwen/Qwen3-14B; {begins}"


def _mode(found: Path) -> int:
    """Return the st_mode of what is at a path, 0 where nothing is.  Raise ValueError where this user cannot look."""
    try:
        return found.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise ValueError(f"{found} {why_unreadable(found, error)}") from None


def command(value: Any, base: Base) -> str:
    """Read a program: a path is returned absolute, a bare name unchanged, to be looked up in PATH later."""
    given = text(value, base)
    return str(base.resolve(given)) if "/" in given or given.startswith("~") else given


def address(value: Any, base: Base) -> Address:
    """Read an address, "HOST:PORT" or "[::1]:PORT"; port 0 is allowed."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f'{shown(value)} is not an address; write "127.0.0.1:30100", "0.0.0.0:30100" or "[::1]:30100"')
    return Address(host, int(port))


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    """Return `values` as a tuple.  Raise ValueError for a value that is there twice."""
    twice = next((value for position, value in enumerate(values) if value in values[:position]), None)
    if twice is not None:
        raise ValueError(f"{shown(twice)} is there twice; name each once")
    return tuple(values)
