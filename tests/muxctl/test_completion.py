"""Completion as the shells themselves do it: real ones, as far as they are installed here."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from muxctl.completion.outline import MODELS, MUXCTL
from muxctl.verbs import VERBS
from muxd.arguments import command_line
from muxd.completion import program

from .conftest import ROOT
from .terminal import Terminal
from .test_status import READY, STATUS

PACKAGE = Path("/usr/share/bash-completion/bash_completion")

# Completes as muxctl does; any other command line is shown, as the shell passed it.
STUB = f"""\
#!/bin/sh
case "$*" in
*completion*) PYTHONPATH={ROOT} exec {sys.executable} -m muxctl "$@" ;;
esac
echo "ran<$*>"
"""


def needs(shell: str):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def with_shell(*marked):
    return [pytest.param(*values, marks=needs(values[0])) for values in marked]


@pytest.fixture
def home(elsewhere, monkeypatch):
    """A home directory, and a muxctl on the PATH."""
    (elsewhere / "home").mkdir()
    command = elsewhere / "bin/muxctl"
    command.parent.mkdir()
    command.write_text(STUB)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR", "BASH_ENV", "ENV"):
        monkeypatch.delenv(variable, raising=False)
    return elsewhere / "home"


@pytest.fixture
def models(muxd, monkeypatch):
    """A muxd with three models; the name of one would be a command."""
    named = [READY | {"name": name} for name in ("qwen", "qwen3-vl", "llama-3.1", "$(touch pwned)")]
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS | {"models": named})
    monkeypatch.setenv("MUXD_SOCKET", str(muxd.path))
    return muxd


def installed(home: Path, place: str, shell: str) -> Path:
    """Write the script where its own first lines say."""
    text = subprocess.run(["muxctl", "completion", shell], capture_output=True, text=True, check=True).stdout
    assert f"~/{place}" in text.split("\n\n")[0]
    path = home / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


# What may be written, taken from the parsers


def test_every_verb_and_option_is_known_from_the_parsers():
    assert MUXCTL.outline("stop").argument.source == MODELS
    assert [option.flags for option in MUXCTL.outline("logs").options if option.value and option.value.words] == [
        ("--stream",)
    ]
    assert MUXCTL.outline("status").flags(optional=True) == ["--watch"]
    assert list(MUXCTL.outline("help").argument.words) == list(VERBS)
    assert {"--socket", "--version"} <= {flag for option in MUXCTL.outline().options for flag in option.flags}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_every_verb_and_every_option(muxctl, shell):
    code, out, err = muxctl("completion", shell)
    assert (code, err) == (0, "")
    for verb, meaning in VERBS.items():
        assert verb in out
        assert meaning.replace("'", "") in out.replace("'\"'\"'", "").replace("\\'", "")
        flags = [flag for option in MUXCTL.outline(verb).options for flag in option.flags]
        assert all(flag.lstrip("-") in out for flag in flags)


@pytest.mark.parametrize("shell", with_shell(("bash",), ("zsh",), ("fish",)))
def test_a_script_is_one_that_its_shell_can_read(muxctl, shell):
    read = subprocess.run([shell, "-n"], input=muxctl("completion", shell)[1], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_the_models_are_asked_from_muxd_and_those_no_shell_should_see_left_out(models, muxctl):
    assert muxctl("completion", "--models") == (0, "qwen:ready\nqwen3-vl:ready\nllama-3.1:ready\n", "")


def test_while_muxd_is_down_there_are_no_models_and_no_words_about_it(muxctl):
    assert muxctl("completion", "--models") == (0, "", "")
    assert muxctl("--socket", "/no/such", "completion", "--models") == (0, "", "")


def test_a_muxd_that_hangs_is_not_waited_for(muxd, muxctl, monkeypatch):
    monkeypatch.setattr("muxctl.completion._PATIENCE", 0.05)
    muxd.scripts["GET /v1/status"] = lambda talk: talk.wait_for_close()
    assert muxctl("completion", "--models") == (0, "", "")


def test_a_shell_must_be_named(muxctl):
    assert muxctl("completion") == (2, "", "muxctl: say for which shell: bash, zsh, fish\n")
    assert muxctl("completion", "tcsh")[0] == 2


# What each shell proposes


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, in a file."""
    folder = tmp_path_factory.mktemp("completion")
    for name in ("bash", "zsh", "fish"):
        (folder / name).write_text(import_module(f"muxctl.completion.{name}").script(MUXCTL))
    return folder


def ran(home: Path, *argv: str) -> list[str]:
    """The lines of what a shell said, in order of the alphabet."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd=home)
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.splitlines()))


def proposed_by_bash(home: Path, scripts: Path, line: str) -> list[str]:
    *_, last = words = line.split(" ")
    said = " ".join([*words[:-1], f"'{last}'"])
    complete = f"COMP_WORDS=({said}) COMP_CWORD={len(words) - 1} && _muxctl"
    return ran(home, "bash", "--norc", "-c", f'. {scripts}/bash && {complete} && printf "%s\n" "${{COMPREPLY[@]}}"')


def proposed_by_fish(home: Path, scripts: Path, line: str) -> list[str]:
    found = ran(home, "fish", "-N", "-c", f'source {scripts}/fish; complete -C "$argv[1]"', line)
    return [each.partition("\t")[0] for each in found]


SHELLS = {"bash": proposed_by_bash, "fish": proposed_by_fish}
NAMES = ["llama-3.1", "qwen", "qwen3-vl"]


@pytest.mark.parametrize("shell", with_shell(("bash",), ("fish",)))
@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("muxctl ", sorted(VERBS)),
        ("muxctl st", ["start", "status", "stop"]),
        ("muxctl --json re", ["reload", "requests", "restart"]),
        ("muxctl stop ", NAMES),
        ("muxctl stop q", ["qwen", "qwen3-vl"]),
        ("muxctl stop --now q", ["qwen", "qwen3-vl"]),
        ("muxctl stop --timeout 5 q", ["qwen", "qwen3-vl"]),
        ("muxctl stop --timeout ", []),
        ("muxctl stop qwen q", []),
        ("muxctl status --watch q", ["qwen", "qwen3-vl"]),
        ("muxctl status --watch 2 q", ["qwen", "qwen3-vl"]),
        ("muxctl status --wa", ["--watch"]),
        ("muxctl logs --stream s", ["stderr", "stdout"]),
        ("muxctl logs -n 5 l", ["llama-3.1"]),
        ("muxctl reload --d", ["--dry-run"]),
        ("muxctl reload q", []),
        ("muxctl completion ", ["bash", "fish", "zsh"]),
        ("muxctl help sl", ["sleep"]),
        ("muxctl keys ", ["add", "list", "revoke"]),
        ("muxctl keys add alice --pr", ["--priority"]),
        ("muxctl keys revoke q", []),
        ("muxctl --vers", ["--version"]),
    ],
)
def test_what_may_be_written_next_is_proposed(home, models, scripts, shell, line, proposed):
    assert SHELLS[shell](home, scripts, line) == proposed
    assert not (home / "pwned").exists()


@pytest.mark.parametrize("shell", with_shell(("bash",), ("fish",)))
def test_the_muxd_that_the_line_names_is_asked(home, models, scripts, monkeypatch, shell):
    monkeypatch.setenv("MUXD_SOCKET", "/no/such")
    assert SHELLS[shell](home, scripts, "muxctl stop ") == []
    assert SHELLS[shell](home, scripts, f"muxctl --socket {models.path} stop ") == NAMES
    assert SHELLS[shell](home, scripts, f"muxctl stop --socket {models.path} l") == ["llama-3.1"]


@pytest.mark.parametrize("shell", with_shell(("bash",), ("fish",)))
def test_paths_are_proposed_where_paths_are_wanted(home, scripts, shell):
    (home / "dir").mkdir()
    (home / "dat.sock").touch()
    found = {path.rstrip("/") for path in SHELLS[shell](home, scripts, "muxctl --socket d")}
    assert found == {"dir", "dat.sock"}
    if shell == "bash":
        assert proposed_by_bash(home, scripts, "muxctl logs --log-dir d") == ["dir"]


@needs("fish")
def test_fish_shows_what_each_word_means(home, models, scripts):
    asked = 'complete -C "muxctl slee"; complete -C "muxctl stop l"'
    assert ran(home, "fish", "-N", "-c", f"source {scripts}/fish; {asked}") == [
        "llama-3.1\tready",
        f"sleep\t{VERBS['sleep']}",
    ]


@needs("fish")
def test_fish_finds_the_script_where_its_first_lines_say(home):
    installed(home, ".config/fish/completions/muxctl.fish", "fish")
    done = subprocess.run(["fish", "-c", 'complete -C "muxctl relo"'], capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("reload\t")


# With keys, as people do it


@pytest.fixture
def shell(home):
    """A shell on a terminal, asked to do something first."""
    opened = []

    def start(argv: list[str], *first: str) -> Terminal:
        opened.append(Terminal(argv, cwd=home, columns=120, env={"PS1": "> ", "LC_ALL": "C.UTF-8"}))
        opened[-1].type("".join(f"{command}\n" for command in (*first, "echo rea''dy")))
        opened[-1].until("ready")
        return opened[-1]

    yield start
    for each in opened:
        each.close()


BASH = ["bash", "--norc", "--noprofile", "-i"]
ZSH = ["zsh", "-f", "-i"]
LOADED = with_shell(
    ("bash", BASH, ["source <(muxctl completion bash)"]),
    ("zsh", ZSH, ["autoload -Uz compinit && compinit -u -D", "source <(muxctl completion zsh)"]),
)


@pytest.mark.parametrize(("name", "argv", "first"), LOADED)
def test_tab_writes_the_rest(shell, models, name, argv, first):
    terminal = shell(argv, *first)
    for keys, command in [
        ("reloa\t--dr\t", "reload --dry-run"),
        ("stop --no-w\tlla\t", "stop --no-wait llama-3.1"),
        ("logs lla\t-n 5 --stream stde\t", "logs llama-3.1 -n 5 --stream stderr"),
        ("status --watch 2 lla\t", "status --watch 2 llama-3.1"),
        (f"--socket {models.path} slee\tlla\t", f"--socket {models.path} sleep llama-3.1"),
        ("help relo\t", "help reload"),
    ]:
        terminal.type(f"muxctl {keys}\n")
        assert terminal.until(">\r\n").rpartition("ran<")[2].removesuffix(">\r\n").rstrip() == command


@pytest.mark.parametrize(("name", "argv", "first"), LOADED)
def test_tab_shows_what_the_verbs_mean(shell, name, argv, first):
    terminal = shell(argv, *first)
    terminal.type("muxctl sta\t\t")
    terminal.until(VERBS["status"])


@needs("zsh")
def test_zsh_finds_the_script_where_its_first_lines_say(shell, home):
    installed(home, ".zfunc/_muxctl", "zsh")
    terminal = shell(ZSH, "fpath=(~/.zfunc $fpath)", "autoload -Uz compinit && compinit -u -D")
    terminal.type("muxctl reloa\t--dr\t\n")
    assert "ran<reload --dry-run" in terminal.until(">\r\n")


@pytest.mark.skipif(not PACKAGE.exists(), reason="the package bash-completion is not installed")
def test_bash_finds_the_script_where_its_first_lines_say(shell, home):
    installed(home, ".local/share/bash-completion/completions/muxctl", "bash")
    terminal = shell(BASH, f"source {PACKAGE}")
    terminal.type("muxctl reloa\t--dr\t\n")
    assert "ran<reload --dry-run" in terminal.until(">\r\n")


# muxd's own words


@pytest.mark.parametrize("shell", with_shell(("bash",), ("fish",), ("zsh",)))
def test_muxds_script_is_one_that_its_shell_can_read(shell):
    script = subprocess.run([sys.executable, "-m", "muxd", "completion", shell], capture_output=True, text=True)
    read = subprocess.run([shell, "-n"], input=script.stdout, capture_output=True, text=True)
    assert (script.returncode, read.returncode, read.stderr) == (0, 0, "")
    assert "muxctl_" not in script.stdout


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("muxd che", ["check"]),
        ("muxd setup --sys", ["--systemd"]),
        ("muxd start --log-level w", ["warning"]),
        ("muxd check dir", ["dir"]),
        ("muxd completion f", ["fish"]),
    ],
)
@needs("bash")
def test_what_may_be_written_to_muxd_next_is_proposed(home, tmp_path, line, proposed):
    (home / "dir").mkdir()
    script = tmp_path / "muxd.bash"
    script.write_text(import_module("muxctl.completion.bash").script(program(command_line())))
    words = line.split(" ")
    complete = f"COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} ; _muxd"
    assert ran(home, "bash", "--norc", "-c", f'. {script} && {complete}; printf "%s\n" "${{COMPREPLY[@]}}"') == proposed
