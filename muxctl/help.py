"""`muxctl help [VERB]`: what `--help` says."""

from argparse import ArgumentParser, Namespace

from muxctl.exit_codes import ExitCode
from muxctl.verbs import find_verb, parser_of, parser_of_all

MEANING = "The same as muxctl --help and muxctl VERB --help.  muxd need not run for it."
EXAMPLES = {"muxctl help": "every verb, and the exit codes", "muxctl help stop": "what stop does, and its options"}
EXITS = {ExitCode.OK: "help was shown", ExitCode.USAGE: "no such verb"}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", metavar="VERB", help="one of muxctl's verbs")


def run(options: Namespace) -> int:
    parser = parser_of(find_verb(options.verb)) if options.verb else parser_of_all()
    print(parser.format_help().rstrip())
    return ExitCode.OK
