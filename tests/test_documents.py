"""The documents: links that lead somewhere, commands that are there, and a tutorial that is run."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from muxctl.verbs import VERBS, parser_of
from muxd.arguments import command_line
from muxd.command_help import COMMAND_HELP
from tests.end_to_end.muxd import eventually
from tests.ports import free_port

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md")), *sorted((PROJECT / "conf").rglob("*.md"))]
TUTORIAL = PROJECT / "docs/tutorial/first-switch.md"


def named(paths):
    return [pytest.param(path, id=str(path.relative_to(PROJECT))) for path in paths]


def commands(text):
    """The commands of its ```console and ```sh blocks, without what they print and without comments behind them."""
    found = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```$", text, re.M | re.S):
        lines = iter(re.sub(r"\\\n\s*", " ", block).splitlines())
        for line in lines:
            if kind == "sh" or line.startswith("$ "):
                command = re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip()
                if command and not command.startswith("#"):
                    found.append(command)
    return found


def anchors(path):
    """The places in a page that a link may lead to, as GitHub names them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", named(PAGES))
def test_a_link_leads_to_a_file_and_a_place_in_it(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def test_every_page_is_reached_from_the_readme():
    seen, ahead = set(), [PROJECT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()))
        ahead += [(page.parent / target).resolve() for target in targets if target and "://" not in target]
    assert {str(page.relative_to(PROJECT)) for page in PAGES if page not in seen} == set()


@pytest.mark.parametrize("page", named(PAGES))
def test_every_command_of_ours_is_one_that_its_parser_takes(page):
    """Whatever a page has readers type of muxd and muxctl: the verb is there, and so is every option."""
    for command in commands(page.read_text()):
        for part in re.split(r"\s*(?:&&|\|\||;|\||&)\s*", command):
            try:
                words = shlex.split(part)
            except ValueError:
                continue
            while words and (words[0] in ("sudo", "exec", "nohup") or re.fullmatch(r"\w+=.*", words[0])):
                del words[0]
            if words and (program := words[0].rpartition("/")[2]) in ("muxd", "muxctl"):
                _check(program, words[1:], part)


def _check(program, words, command):
    if not words or words[0].startswith("-"):
        return
    verb, options = words[0], {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    if program == "muxctl":
        assert verb in VERBS, command
        known = parser_of(verb)._option_string_actions
    else:
        commands = next(action for action in command_line()._actions if isinstance(action.choices, dict))
        assert verb in commands.choices, command
        if verb == "router":  # another program's flags
            return
        known = commands.choices[verb]._option_string_actions
    assert not [option for option in options if option not in known], command


def test_the_help_of_every_command_has_examples_that_its_parser_takes():
    (verbs,) = (action.choices for action in command_line()._actions if isinstance(action.choices, dict))
    assert COMMAND_HELP.keys() == verbs.keys()
    for verb, told in COMMAND_HELP.items():
        shown = verbs[verb].format_help()
        assert told.meaning in shown
        assert told.examples
        for example in told.examples:
            assert example in shown
            words = shlex.split(re.sub(r"^sudo |^source <[(]|[)]$", "", example))
            assert words[:2] == ["muxd", verb]
            _check("muxd", words[1:], example)


def test_the_tutorial_does_what_it_says(tmp_path):
    """All its commands but the installation, in one shell, as a reader would type them; each must succeed."""
    port = free_port()
    text = TUTORIAL.read_text()
    config = next(block for block in re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S))
    assert set(tomllib.loads(config)["models"]) == {"alpha", "beta"}
    own = f'[proxy]\nlisten = "127.0.0.1:{port}"\n[muxd]\nsocket = "{tmp_path}/s"\nstate_dir = "{tmp_path}/state"\n'
    (tmp_path / "muxd.toml").write_text(own + config)
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("muxd", "muxctl"):
        (bin / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {name} "$@"\n')
        (bin / name).chmod(0o755)
    environ = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    environ |= {"PATH": f"{bin}:{os.environ['PATH']}", "MUXD_SOCKET": f"{tmp_path}/s", "HOME": str(tmp_path)}
    typed = [command for command in commands(text) if "pip install" not in command]
    assert len(typed) > 15
    script = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for command in typed:
        script += [f"echo {shlex.quote('$ ' + command)}", command.replace("30100", str(port))]
        if command == "muxd start &":
            script.append(f"until [ -S {tmp_path}/s ] && curl -s http://127.0.0.1:{port}/health; do sleep 0.1; done")
    script.append("wait")
    argv = ["bash", "-c", "\n".join(script)]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for seen in ('"model":"alpha"', '"model":"beta"', "alpha -> beta", "alpha is ready"):
        assert seen in done.stdout.replace('": "', '":"'), f"{seen} in {done.stdout}"
    eventually(lambda: not (tmp_path / "s").exists(), "muxd is gone")


def test_every_tab_of_the_console_is_shown_at_both_widths_and_in_both_colours():
    """As PNG files of that width, all of them together small."""
    page, folder = PROJECT / "docs/how-to/console.md", PROJECT / "docs/images/console"
    table = re.search(r"const TABS = \[(.*?)\n\];", (PROJECT / "muxd/ui/static/app.js").read_text(), re.S)
    tabs = re.findall(r'^  \["(\w+)"', table[1], re.M)
    expected = {f"{tab}-{width}-{scheme}.png" for tab in tabs for width in (360, 1440) for scheme in ("light", "dark")}
    assert {path.name for path in folder.iterdir()} == expected
    assert set(re.findall(r"\]\(\.\./images/console/([^)]+)\)", page.read_text())) == expected
    for name in expected:
        head = (folder / name).read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(head[16:20], "big") == int(name.split("-")[1])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
