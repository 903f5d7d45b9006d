"""The reference of the configuration: conf/muxd.toml, with every key's sentence and default.

Run `python -m muxd.config.reference > conf/muxd.toml` (`make reference`) after a change of a key; a test holds the two
equal.
"""

import json
from datetime import date
from textwrap import wrap
from typing import Any

from .declarations import KeyDeclaration, keys_of
from .engine_options import OpenAIOptions, Simulation
from .model_schema import MODEL_KEYS
from .schema import SECTIONS, Key

_WIDTH = 120

_HEAD = """\
# muxd.toml: copy it to ./muxd.toml, ~/.config/muxd/muxd.toml or /etc/muxd/muxd.toml (searched in this order),
# put your models in at the end, and let `muxd check` read it.  `muxd init` writes a shorter one, with the models, the
# GPUs and the SGLang that it finds on this machine.
#
# A line that begins with "#" and no blank after it is a setting with its default: take the "#" away to change it.
# Durations are "90s", "5min", "2h" or seconds; "inf" is no limit.  Sizes are "38GiB", "512MiB" or bytes.
# Relative paths start at the directory of this file.
#
# Files in the folder muxd.d beside this file are merged after it, in the order of their names, if those end in ".toml"
# and do not begin with a dot; 10-team.toml comes before 20-night.toml.  They are for what commands, packages and other
# people add: a model of its own, or single keys of a table that is written here.  What is said last counts, key by key:
#   [models.qwen]
#   preload = true
# changes nothing else of that model.  Relative paths in them start at the directory of this file, too; a link to
# /dev/null switches one off.  `muxd check` tells which files were read, and in which of them a problem is.
"""

_DEFAULTS = "# Any key of a model, for all models that do not have it.\n"

_QWEN = """\
# One table for each model.  Its name is what muxctl and the log files call it: a-z, 0-9, ".", "_" and "-";
# a name with a dot is written in quotes: [models."qwen2.5"].
[models.qwen]
"""

_MISTRAL = """\
args = ["--context-length", "32768"]

[models.mistral]
model_path = "/srv/models/Mistral-Small-24B"
"""

_ANY_SERVER = """\
# Any server of OpenAI's API that a command starts.
#[models.other]
#engine = "openai"
"""

_PRETEND = """\
# A pretend server, to try things out.
#[models.pretend]
#engine = "simulator"
#memory = { weights = "40GiB", kv = "20GiB" }
#[models.pretend.simulation]
"""

_KEYS = """\
# One table for each API key.  `muxctl keys add NAME` makes one, tells its secret once, and writes such a table with the
# secret's hash into muxd.d/keys.toml.  Where there is any, a request must show one: "Authorization: Bearer SECRET",
# "x-api-key: SECRET" or "api-key: SECRET".  It is not sent on to the models.  `muxctl reload` takes changes over.
#[[keys]]
"""

#: Keys that the reference shows in a model's own table, not in [defaults].
_ON_QWEN = ("model_path", "served_names", "memory")
_OWN = (*_ON_QWEN, "script", "simulation", *keys_of(OpenAIOptions))


def reference() -> str:
    """Return the text of conf/muxd.toml."""
    own = {name: MODEL_KEYS[name] for name in _OWN}
    common = {name: declared for name, declared in MODEL_KEYS.items() if name not in own}
    sections = (
        f"{_on_reload(keys_of(table), 'takes a restart of muxd')}[{name}]\n{_keys(keys_of(table))}"
        for name, table in SECTIONS.items()
    )
    parts = [
        _HEAD,
        *sections,
        f"{_DEFAULTS}{_on_reload(common, 'restarts the worker')}[defaults]\n{_keys(common)}",
        f"{_QWEN}{''.join(_key(name, own[name], mark='') for name in _ON_QWEN)}{_MISTRAL}",
        f"{_comment(own['script'].doc)}#[models.legacy]\n{_setting('script', own['script'])}",
        _ANY_SERVER + _keys(keys_of(OpenAIOptions)),
        _PRETEND + _keys(keys_of(Simulation)),
        _KEYS + _keys(keys_of(Key)),
    ]
    return "\n".join(parts)


def _on_reload(keys: dict[str, KeyDeclaration], otherwise: str) -> str:
    """Return the sentence that says what a change of these keys takes."""
    others = [name for name, declared in keys.items() if not declared.live]
    if len(others) == len(keys):
        return _comment(f"A change here {otherwise}.")
    but = f"; one of {', '.join(others)} {otherwise}" if others else ""
    return _comment(f"`muxctl reload` takes changes over{but}.")


def _keys(keys: dict[str, KeyDeclaration]) -> str:
    return "".join(_key(name, declared) for name, declared in keys.items())


def _key(name: str, declared: KeyDeclaration, mark: str = "#") -> str:
    inner = keys_of(declared.read) if isinstance(declared.read, type) else {}
    doc = "\n".join([declared.doc, *(f"  {part}: {inner[part].doc}" for part in inner)])
    return _comment(doc) + _setting(name, declared, mark)


def _setting(name: str, declared: KeyDeclaration, mark: str = "#") -> str:
    return f"{mark}{name} = {shown_value(declared)}\n"


def shown_value(declared: KeyDeclaration) -> str:
    """Return a key's default, or its example, as TOML."""
    return _toml(declared.shown)


def _comment(text: str) -> str:
    lines = (line for paragraph in text.split("\n") for line in wrap(paragraph, _WIDTH - 2, break_on_hyphens=False))
    return "".join(f"# {line}\n" for line in lines)


def _toml(value: Any) -> str:
    """Return a value as TOML writes it in one line."""
    match value:
        case dict():
            inner = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case date():
            return value.isoformat()
    return json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
