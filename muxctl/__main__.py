"""Entry point of muxctl: run a verb, return its exit code.  A failure is one line on stderr, never a traceback."""

import os
import sys
from argparse import ArgumentParser, Namespace

from muxctl.exit_codes import CommandFailed, ExitCode
from muxctl.verbs import VERBS, find_verb, module_of, nearest, parser_of, parser_of_all
from muxd import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own; return its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except CommandFailed as failure:
        print(f"muxctl: {failure.message}", file=sys.stderr)
        return failure.code
    except KeyError as missing:
        print(f"muxctl: muxd's answer has no {missing}; are muxd and muxctl of one version?", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        from muxd.errors import in_words

        print(f"muxctl: cannot go on: {in_words(error)}", file=sys.stderr)
        _discard_output()
        return ExitCode.PERMISSION if isinstance(error, PermissionError) else ExitCode.FAILED


def _discard_output() -> None:
    """Point stdout at /dev/null, as nobody reads it: Python flushes its buffer at exit, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if sys.stdout is None:  # the parent process has closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    verb, rest = _split(argv)
    if verb is None:
        print(rest[0])
        return ExitCode.OK
    return int(module_of(verb).run(_parsed(parser_of(verb), rest)))


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """Return the verb and all other arguments, also those before the verb; or None and a text to print.

    Raises CommandFailed if there is no verb, or an unknown one.
    """
    before: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        before.append(rest.pop(0))
        if before[-1] == "--socket" and rest:
            before.append(rest.pop(0))
    if "--help" in before or "-h" in before:
        return None, [parser_of_all().format_help().rstrip()]
    if "--version" in before:
        return None, [f"muxctl {__version__}"]
    if not rest:
        raise CommandFailed(f"say what to do: {', '.join(VERBS)}; muxctl --help tells more", ExitCode.USAGE)
    return find_verb(rest[0]), before + rest[1:]


def _parsed(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Return the parsed arguments; exit with status 2 and a hint if the parser does not know one of them."""
    options, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(unknown[0], parser)}")
    return options


#: Options of journalctl, docker and tail that people try in the place of -n.
_GOING_BACK = ("--since", "--until", "--tail")


def _hint(word: str, parser: ArgumentParser) -> str:
    """Return a hint for an unknown argument: the options that may have been meant, else all of them.

    Names are compared without their dashes, which would make all options alike.
    """
    if not word.startswith("-"):
        return "; one model at a time" if any(action.dest == "name" for action in parser._actions) else ""
    if "-n" in parser._option_string_actions and word.partition("=")[0] in _GOING_BACK:
        return "; -n N goes back by N lines"
    options = sorted(option for option in parser._option_string_actions if option.startswith("--"))
    meant = nearest(word.partition("=")[0].lstrip("-"), [option[2:] for option in options])
    return (
        f"; did you mean {' or '.join(f'--{name}' for name in meant)}?"
        if meant
        else f"; there are {', '.join(options)}"
    )


if __name__ == "__main__":
    sys.exit(main())
