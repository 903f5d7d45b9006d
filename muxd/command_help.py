"""What the help of each command of `muxd` says beside its options: what it does, examples, exit codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_EXITS = {0: "ok", 1: "failed", 2: "usage or configuration"}


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """The sentences, examples (each with its meaning) and exit codes of one command."""

    meaning: str
    examples: Mapping[str, str]
    exits: Mapping[int, str] = field(default_factory=dict)

    @property
    def epilog(self) -> str:
        """Return the examples and the exit codes, as text in columns."""
        width = max(map(len, self.examples))
        shown = [f"  {command:{width}}  {meaning}".rstrip() for command, meaning in self.examples.items()]
        codes = [f"  {code:3}  {meaning}" for code, meaning in sorted({**_EXITS, **self.exits}.items())]
        return "\n".join(["Examples:", *shown, "", "Exit codes:", *codes])


COMMAND_HELP = {
    "start": CommandHelp(
        """\
It starts the models' servers and the proxy, and ends with Ctrl-C, SIGTERM or
`muxctl shutdown`.  Its own log goes to stderr; `muxctl` talks to it meanwhile.""",
        {
            "muxd start": "with the configuration that is found",
            "muxd start --demo --ui": "two simulated models, and a console to look at them",
            "muxd start a.sh b.sh": "sglangmux's launch scripts, as they are",
            "muxd start --llmux config.json": "llmux's configuration, as it is",
        },
        {0: "it was shut down", 130: "interrupted before it was ready"},
    ),
    "proxy": CommandHelp(
        """\
muxd start runs one, unless managed = false is under [proxy]: then it is a service
of its own, which keeps its port while muxd is restarted.""",
        {"muxd proxy --config /etc/muxd/muxd.toml": "of that muxd"},
    ),
    "ui": CommandHelp(
        """\
muxd start runs it where listen under [ui] is set; `muxctl ui` prints the link.""",
        {"muxd ui --config /etc/muxd/muxd.toml": "of that muxd"},
    ),
    "sweep": CommandHelp(
        """\
For when muxd was killed and is not to be started again: the next muxd start
would go on with what is left.  Where a muxd runs it ends nothing, and says so.""",
        {"muxd sweep": "of the muxd whose configuration is found", "muxd sweep --config old.toml": "of another"},
    ),
    "router": CommandHelp(
        """\
Its flags are those of sglang-router 0.1.8 and 0.3.2.  What it cannot do is
refused with a reason.""",
        {"muxd router --worker-urls http://10.0.0.7:30000 --policy round_robin": ""},
    ),
    "check": CommandHelp(
        """\
Reads the configuration as `muxd start` would, then looks at this machine for it:
interpreters, models, GPUs, host RAM, ports.  Starts and changes nothing.""",
        {
            "muxd check": "the configuration that is found",
            "muxd check --config new.toml --strict": "of a file; warnings count, too",
            "muxd check --no-host": "the files only, such as on another machine",
            "muxd check a.sh b.sh": "launch scripts, as muxd start would read them",
        },
        {0: "nothing is wrong", 2: "something is; with --strict: or a warning"},
    ),
    "init": CommandHelp(
        """\
Looks for GPUs, for interpreters that have SGLang, and for models; says what it
found, and what is left to do.  A file that is there stays, without --force.""",
        {
            "muxd init": "writes ./muxd.toml",
            "muxd init --models /models": "with the models in a folder, too",
            "muxd init --reference": "every key, with its default and what it means",
        },
    ),
    "replay": CommandHelp(
        """\
muxd writes down what its scheduler was told, and a checksum of what it decided.
Here it decides once more, without GPU and configuration.""",
        {"muxd replay /var/lib/muxd/decisions.journal": "are all of them the same?"},
        {0: "all decisions are the same", 1: "one is another, or the file cannot be read"},
    ),
    "whatif": CommandHelp(
        """\
Prints switches, waits and time spent switching: as it was, simulated with the
same settings, and simulated with those of --set.  Compare the last two.  Keys are
wait_target, keep_turns and batch_max_wait, and of a model drain_timeout, preload,
pinned, priority, sleep_level, share and copy.  The journal has how long a model was busy, not how
long each answer took: where one unusually long answer is under way, muxd keeps a
model open for longer than the simulated rows do.""",
        {
            "muxd whatif /var/lib/muxd/decisions.journal --set wait_target=10s": "",
            "muxd whatif decisions.journal --set qwen.pinned=true --set keep_turns=false": "",
        },
    ),
    "import": CommandHelp(
        """\
What has no equal in muxd is said, to stderr.""",
        {
            "muxd import llmux config.json -o muxd.toml": "then: muxd check",
            "muxd import llama-swap config.yaml": "to look at it first",
        },
    ),
    "setup": CommandHelp(
        """\
Writes units with the path of this installation, and the users and folders that
they need; starts nothing, and says what is left to do.""",
        {
            "muxd setup --systemd --print": "what it would write",
            "sudo muxd setup --systemd": "the service, as root",
            "sudo muxd setup --systemd --hardened": "as a user of its own, without root",
            "muxd setup --systemd --user": "without root: a service of your own",
            "sudo muxd setup --systemd --remove": "takes it away again; configuration and state stay",
        },
    ),
    "completion": CommandHelp(
        """\
The first lines of what is printed say where it goes.""",
        {"source <(muxd completion bash)": "for this shell"},
    ),
}  # fmt: skip
