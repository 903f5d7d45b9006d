"""The verbs, and the parser of each.  Help and completion take their lists of verbs and options from here."""

from argparse import ArgumentParser
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from muxctl.exit_codes import MEANINGS, CommandFailed, ExitCode
from muxctl.usage_errors import VerbHelpFormatter, VerbParser, did_you_mean

# Each is a module of muxctl with MEANING, EXAMPLES, EXITS, arguments(parser) and run(options).
VERBS = {
    "status": "what every model is doing, or everything about one",
    "top": "everything on one screen, live, with orders by a key",
    "switch": "make a model ready now, ahead of the queue",
    "start": "load a model where it fits, evict nobody; lifts a stop",
    "stop": "end a model, and keep it down until it is started",
    "restart": "end a model and load it again",
    "sleep": "make a model give its GPU up until it is asked for",
    "scale": "let so many replicas of a model serve",
    "hold": "make a model ready, and keep it on its GPUs",
    "unhold": "let a model go that is held",
    "lend": "run a command on a GPU that models leave for it",
    "yield": "let every model sleep for a while, and then come back",
    "validate": "let a model sleep and wake at each level, and see that it works",
    "reload": "read the configuration again and apply what changed",
    "keys": "make, list and revoke API keys of the proxy",
    "why": "why a switch was made, and where its time went",
    "requests": "the clients' requests: running, waiting and ended",
    "usage": "what each API key took of each model, by day",
    "logs": "what a model wrote, also when muxd is down",
    "events": "what happened, and with -f what happens",
    "upgrade": "go on as the muxd that is installed now; no model is disturbed",
    "shutdown": "stop every model, and muxd",
    "ui": "print a link that opens the console, a web page",
    "completion": "print what makes a shell complete muxctl's words",
    "help": "how to use muxctl, or one verb",
}

# Words that people type, and the verb that they mean.
_ALSO_SAID = {
    **dict.fromkeys(("list", "models", "ls", "ps", "health", "ping", "state"), "status"),
    **dict.fromkeys(("show", "info", "describe", "inspect"), "status NAME"),
    **dict.fromkeys(("watch", "monitor"), "top"),
    "htop": "top",
    **dict.fromkeys(("run", "wake", "load", "resume", "activate"), "switch or start"),
    **dict.fromkeys(("use", "select"), "switch"),
    **dict.fromkeys(("enable", "unstop"), "start"),
    **dict.fromkeys(("rm", "remove", "delete", "del"), "stop, or take it out of muxd.toml and reload"),
    **dict.fromkeys(("add", "create", "new", "pull", "download"), "reload, after the model is written into muxd.toml"),
    **dict.fromkeys(("unload", "pause", "suspend", "evict"), "sleep"),
    **dict.fromkeys(("disable", "end"), "stop"),
    **dict.fromkeys(("replicas", "resize", "autoscale"), "scale"),
    "kill": "stop --now",
    **dict.fromkeys(("queue", "inflight", "access"), "requests"),
    "cancel": "requests --cancel ID",
    **dict.fromkeys(("quit", "exit", "halt", "down"), "shutdown"),
    **dict.fromkeys(("tail", "follow"), "logs -f"),
    **dict.fromkeys(("explain", "reason", "switches"), "why"),
    **dict.fromkeys(("web", "console", "dashboard"), "ui"),
    "journal": "logs",
    "history": "events",
    **dict.fromkeys(("borrow", "loan", "train"), "lend"),
    **dict.fromkeys(("free", "vacate", "giveup"), "yield"),
    **dict.fromkeys(("pin", "keep", "reserve"), "hold"),
    **dict.fromkeys(("unpin", "release"), "unhold"),
    **dict.fromkeys(("token", "tokens"), "keys"),
    **dict.fromkeys(("quota", "billing", "stats"), "usage"),
    "revoke": "keys revoke",
    "version": "--version",
    **dict.fromkeys(("check", "config", "configtest"), "muxd check"),
    **dict.fromkeys(("verify", "prove", "test", "benchmark"), "validate"),
    **dict.fromkeys(("init", "setup"), "muxd init"),
    **dict.fromkeys(("serve", "daemon"), "muxd start"),
}


def module_of(verb: str) -> ModuleType:
    """Import and return the verb's module."""
    return import_module(f"muxctl.{verb}")


def parser_of(verb: str) -> VerbParser:
    """Return the parser of `muxctl VERB`, with its help."""
    module = module_of(verb)
    parser = VerbParser(f"muxctl {verb}", formatter_class=VerbHelpFormatter)
    parser.description = f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.\n\n{module.MEANING}"
    parser.epilog = _epilog(module.EXAMPLES, module.EXITS)
    _common(parser)
    module.arguments(parser)
    return parser


def parser_of_all() -> ArgumentParser:
    """Return the parser of the options before a verb, with the help that lists every verb."""
    parser = ArgumentParser("muxctl", formatter_class=VerbHelpFormatter)
    parser.usage = "muxctl [--socket PATH] [--json] VERB ..."
    verbs = "\n".join(f"  {verb:12}{summary}" for verb, summary in VERBS.items())
    parser.description = f"Talks to the muxd of this host.\n\n{verbs}\n\nmuxctl VERB --help tells more."
    parser.epilog = f"{_WHERE}\n\n{_epilog({}, MEANINGS)}"
    parser.add_argument("--version", "-V", action="store_true", help="say which version this is")
    _common(parser)
    return parser


_WHERE = """\
Without --socket muxd is looked for at $MUXD_SOCKET, else at the first that
exists of $XDG_RUNTIME_DIR/muxd/muxd.sock, /run/muxd/muxd.sock and
~/.local/state/muxd/muxd.sock; else at a running muxd start --demo of yours."""


def _common(parser: ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", help="muxd's control socket")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _epilog(examples: Mapping[str, str], exits: Mapping[ExitCode, str]) -> str:
    width = max(map(len, examples), default=0)
    shown = [f"  {command:{width}}  {meaning}".rstrip() for command, meaning in examples.items()]
    codes = [f"  {code.value:3}  {exits[code]}" for code in sorted(exits)]
    return "\n".join([*(["Examples:", *shown, ""] if shown else []), "Exit codes:", *codes])


def find_verb(word: str) -> str:
    """Return the word if it is a verb; raise CommandFailed with the verbs that may have been meant if not."""
    if word in VERBS:
        return word
    meant = _ALSO_SAID.get(word) or did_you_mean(word, VERBS)
    hint = f"did you mean {meant}?" if meant else f"there are {', '.join(VERBS)}"
    raise CommandFailed(f"no such verb: {word}; {hint}", ExitCode.USAGE)
