"""`muxd completion SHELL`: the script that makes a shell complete muxd's words."""

from argparse import ArgumentParser, _SubParsersAction
from importlib import import_module

from muxctl.completion.outline import Program


def completion(shell: str, parser: ArgumentParser) -> str:
    """Return the script of a shell; `parser` is that of muxd's whole command line."""
    return str(import_module(f"muxctl.completion.{shell}").script(program(parser)))


def program(parser: ArgumentParser) -> Program:
    """Return muxd with its commands, for its completion and its manual page."""
    (commands,) = (action for action in parser._actions if isinstance(action, _SubParsersAction))
    meanings = {command.dest: command.help or "" for command in commands._choices_actions}
    return Program("muxd", meanings, commands.choices.__getitem__, lambda: parser)
