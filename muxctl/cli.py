"""The command line of muxctl: run a verb, return its exit code.  A failure is one line on stderr, never a traceback."""

import gc
import os
import sys
from argparse import Namespace
from collections.abc import Container

from muxctl.exit_codes import CommandFailed, ExitCode
from muxctl.usage_errors import VerbParser, option_hint
from muxctl.verbs import VERBS, find_verb, module_of, parser_of, parser_of_all
from muxd import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own; return its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        if argv is None:
            gc.freeze()  # at its exit Python goes through all that is not frozen, for a tenth of a command's CPU
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
        if _is_socket(before[-1]) and rest:
            before.append(rest.pop(0))
    if "--help" in before or "-h" in before:
        return None, [parser_of_all().format_help().rstrip()]
    if "--version" in before or "-V" in before:
        return None, [f"muxctl {__version__}"]
    if not rest:
        _refuse_unknown(before, {})
        raise CommandFailed(f"say what to do: {', '.join(VERBS)}; muxctl --help tells more", ExitCode.USAGE)
    if rest[0] not in VERBS and (verb := next((word for word in rest if word in VERBS), None)):
        options = parser_of(verb)._option_string_actions
        _refuse_unknown(before, options)
        if before and before[-1] in options and options[before[-1]].nargs != 0:  # rest[0] is the value of that option
            place = rest.index(verb)
            before, rest = before + rest[:place], rest[place:]
    return find_verb(rest[0]), before + rest[1:]


def _is_socket(flag: str) -> bool:
    return len(flag) >= len("--so") and "--socket".startswith(flag)


def _refuse_unknown(before: list[str], known: Container[str]) -> None:
    """Raise CommandFailed for an option before the verb that neither muxctl knows nor the verb, if there is one."""
    parser = parser_of_all()
    for word in before:
        flag = word.partition("=")[0]
        is_known = flag in parser._option_string_actions or flag in known or _is_socket(flag)
        if word.startswith("-") and not is_known:
            raise CommandFailed(f"no such option: {flag}; {option_hint(flag, parser)}", ExitCode.USAGE)


def _parsed(parser: VerbParser, words: list[str]) -> Namespace:
    """Return the parsed arguments; exit with status 2 and a hint if the parser does not know one of them."""
    parser.words = words
    options, unknown = parser.parse_known_args(words)
    if unknown:
        parser.unknown(unknown)
    return options
