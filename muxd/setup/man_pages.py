"""The manual pages muxd(1), muxctl(1) and muxd.toml(5), made from the help and from the declarations of the keys.

Run `python -m muxd.setup.man_pages conf/man` (`make reference`) after a change of either; a test holds the files equal.
"""

import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from muxctl.completion.outline import MUXCTL, Program
from muxctl.exit_codes import MEANINGS
from muxd.config.declarations import KeyDeclaration, keys_of
from muxd.config.engine_options import OpenAIOptions, Simulation
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.reference import shown_value
from muxd.config.schema import SECTIONS, Key


def man_pages() -> Mapping[str, str]:
    """Return the text of every page, by the name of its file."""
    from muxd.arguments import command_line
    from muxd.completion import program

    muxd = program(command_line())
    files = {
        "./muxd.toml, ~/.config/muxd/muxd.toml, /etc/muxd/muxd.toml": "the configuration; the first that exists counts",
        "muxd.d/*.toml beside it": "merged over it, in the order of their names",
    }
    return {
        "muxd.1": _page("muxd", 1, "many models on one GPU host behind one endpoint")
        + "".join(_commands(muxd, "COMMAND"))
        + _section("FILES")
        + "".join(_item(name, meaning) for name, meaning in files.items())
        + _see_also("muxctl(1)", "muxd.toml(5)"),
        "muxctl.1": _page("muxctl", 1, "talk to the muxd of this host")
        + "".join(_commands(MUXCTL, "VERB"))
        + _section("EXIT STATUS")
        + "".join(_item(str(code.value), meaning) for code, meaning in sorted(MEANINGS.items()))
        + _see_also("muxd(1)", "muxd.toml(5)"),
        "muxd.toml.5": _page("muxd.toml", 5, "configuration of muxd")
        + _section("DESCRIPTION")
        + _paragraph(
            "Durations are \"90s\", \"5min\", \"2h\" or seconds; sizes are \"38GiB\", \"512MiB\" or bytes. Relative "
            "paths start at the folder of the file. muxd check says everything that is wrong with a configuration."
        )
        + "".join(_tables())
        + _see_also("muxd(1)", "muxctl(1)"),
    }  # fmt: skip


def _commands(program: Program, word: str) -> Iterator[str]:
    yield _section("SYNOPSIS")
    yield f".B {program.name}\n{_escaped(f'[OPTION ...] {word} ...')}\n"
    yield _section("OPTIONS")
    common = program.parser_of_all()
    yield from _options(common, ())
    for verb, meaning in program.verbs.items():
        parser = program.parser_of(verb)
        yield _section(f"{program.name} {verb}")
        yield _paragraph(f"{meaning[0].upper()}{meaning[1:]}.")
        said = (parser.description or "").removeprefix(f"{meaning[0].upper()}{meaning[1:]}.").strip()
        yield from map(_paragraph, filter(None, said.split("\n\n")))
        yield from _options(parser, common._option_string_actions)
        if examples := (parser.epilog or "").partition("Exit codes:")[0].strip():
            yield f".PP\n.nf\n{_escaped(examples)}\n.fi\n"


def _options(parser: ArgumentParser, known: Container[str]) -> Iterator[str]:
    """Yield the options and arguments of a parser, without those whose flags are known from before."""
    for action in parser._actions:
        new = not action.option_strings or any(flag not in known for flag in action.option_strings)
        if new and action.help != SUPPRESS and not isinstance(action.choices, dict):
            yield _item(_spelling(action), action.help or "")


def _spelling(action: Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return value
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} [{value}]" if action.nargs == "?" else f"{flags} {value}"


def _tables() -> Iterator[str]:
    own = {**keys_of(OpenAIOptions)}
    tables: dict[str, Mapping[str, KeyDeclaration]] = {
        **{f"[{name}]": keys_of(table) for name, table in SECTIONS.items()},
        "[defaults], [models.NAME]": {name: declared for name, declared in MODEL_KEYS.items() if name not in own},
        '[models.NAME] with engine = "openai"': own,
        "[models.NAME.simulation]": keys_of(Simulation),
        "[[keys]]": keys_of(Key),
    }
    for title, keys in tables.items():
        yield _section(title)
        for name, declared in keys.items():
            yield _item(f"{name} = {shown_value(declared)}", declared.doc)


def _page(name: str, section: int, summary: str) -> str:
    return f'.TH "{name.upper()}" "{section}" "" "muxd" ""\n' + _section("NAME") + f"{name} \\- {_escaped(summary)}\n"


def _section(title: str) -> str:
    return f'.SH "{_escaped(title)}"\n'


def _paragraph(text: str) -> str:
    return f".PP\n{_escaped(_joined(text))}\n"


def _item(term: str, text: str) -> str:
    return f".TP\n.B {_escaped(term)}\n{_escaped(_joined(text))}\n"


def _joined(text: str) -> str:
    return " ".join(text.split())


def _see_also(*pages: str) -> str:
    return _section("SEE ALSO") + f"{', '.join(pages)}\n"


def _escaped(text: str) -> str:
    """Return text that roff prints as it is: backslashes, dashes, and the characters that begin a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in man_pages().items():
        (folder / name).write_text(text)
