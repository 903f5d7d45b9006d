"""What is taken for a launch script, and slips that bash takes for something else."""

from pathlib import Path

import pytest

from muxd.importers.scripts import read_script
from muxd.importers.slips import why_no_script

SERVE = "python -m sglang.launch_server --model-path o/a --port 30001"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "#!/bin/bash\n"),
        ("a", "#! /usr/bin/env bash\n"),
        ("a.txt", "#!/usr/bin/env -S FOO=1 bash -e\n"),
        ("a", "#!/bin/sh -e\n"),
        ("a.sh", "MODEL_NAME=a\n"),
        ("A.SH", "models:\n  x: y\n"),
        ("a.bash", ""),
        ("a.sh", "\ufeff#!/bin/bash\n"),
    ],
)
def test_a_launch_script_is_known_by_its_first_line_or_by_its_ending(name, text):
    assert why_no_script(Path(name), text) == ""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("real.yaml", "models:\n  q: 1\n", "looks like YAML"),
        ("c", "# all\nmodels:\n  q: 1\n", "looks like YAML"),
        ("c", "---\nq: 1\n", "looks like YAML"),
        ("real.json", "{}", "looks like JSON"),
        ("c", '{"models": {}}', "looks like JSON"),
        ("c", "[models.a]\npath = 'x'\n", "looks like TOML, not like a launch script; a configuration is given with"),
        ("README.md", "# muxd\n", "looks like Markdown"),
        ("notes.txt", "# Notes\ntouch x\n", "looks like text"),
        ("Makefile", "all:\n\techo\n", "looks like YAML"),
        ("serve", f"{SERVE}\n", "looks like text, not like a launch script; if it is one, begin"),
        ("a.py", "import sglang\n", "looks like Python"),
        ("a.sh", "#!/usr/bin/env python3\n", "is a script of python3 by its first line"),
        ("a.sh", "#!/usr/bin/fish\n", "is a script of fish by its first line"),
        ("a", "#!\n", "looks like text"),
        ("a.sh", "\x7fELF\0\0", "is a binary file"),
    ],
)
def test_anything_else_is_refused_by_what_it_looks_like(name, text, words):
    assert why_no_script(Path(name), text).startswith(words)


@pytest.fixture
def blamed(tmp_path, bash):
    def blamed(text):
        (tmp_path / "a.sh").write_text(text)
        problems = read_script(tmp_path / "a.sh", "a.sh", bash.environ, tmp_path).problems
        return [f"{place} {problem}" for place, problem in problems]

    return blamed


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "MODEL_NAME = mistral\n",
            1,
            "blanks around the = of MODEL_NAME, which bash takes for a program then; write MODEL_NAME=mistral",
        ),
        ("A=1\nPORT =30002\n", 2, "write PORT=30002"),
        ("PORT= 30002\n", 1, "write PORT=30002"),
        ("MODEL_NAME= mistral\n", 1, "write MODEL_NAME=mistral"),
        ("if true; then\n  export TP = 2\nfi\n", 2, "write TP=2"),
        (
            "python -m sglang.launch_server \\ \n  --model-path o/a\n",
            1,
            "a blank stands behind the \\ at the line's end",
        ),
        ("python -m x a\\\t\n  --model-path o/a\n", 1, "a blank stands behind the \\"),
    ],
)
def test_slips_of_the_pen_are_told_by_their_lines(blamed, text, line, words):
    (told,) = blamed(f"{text}{SERVE}\n")
    assert told.startswith(f"a.sh:{line} ")
    assert words in told


@pytest.mark.parametrize(
    "text",
    [
        "[ a = b ] && A=1\n[[ $a = b ]] || B=1\n",
        "FOO= my-tool x\n",
        "(( a = 3 ))\n",
        "echo A = 3\n",
        "cat <<E\nPORT = 3 \\ \nE\n",
        "# PORT = 3 \\ \n",
        "echo \\\n  x\n",
        "echo a\\ b\n",
    ],
)
def test_what_looks_like_a_slip_and_is_none(blamed, text):
    assert blamed(f"{text}{SERVE}\n") == []


def test_a_name_that_only_bash_knows_is_told(tmp_path, bash):
    def computed(text):
        (tmp_path / "a.sh").write_text(text)
        return read_script(tmp_path / "a.sh", "a.sh", bash.environ, tmp_path).computed

    assert computed(f"\nMODEL_NAME=$(basename $0)\n{SERVE}")[1] == 2
    assert computed(f"MODEL_NAME=a\n{SERVE}") is None
    assert computed(f'MODEL_NAME=$(x)\n{SERVE} --served-model-name "$MODEL_NAME"') is None, "the process tells it"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "python -m sglang.launch_server \\\n --model-path o/a\n --port 3\n",
            "a.sh:3 --port is no part of the command before, and bash takes it for a program: "
            "the line before does not end in \\; write one there",
        ),
        (
            "python -m sglang.launch_server \\\n --model-path o/a\n --port=3\n",
            "a.sh:3 --port=3 is no part of the command before, and bash takes it for a program: "
            "the line before does not end in \\; write one there",
        ),
        (
            "python -m sglang.launch_server \\\n --model-path o/a \\\n # --tp 2 \\\n --port 3\n",
            "a.sh:4 --port is no part of the command before, and bash takes it for a program: "
            "the comment in the line before ends that command; move it out of it",
        ),
        (
            "python \u2013m sglang.launch_server --model-path o/a\n",
            'a.sh:1 \u2013m begins with a dash that is no "-"; write -m',
        ),
        (
            f"{SERVE} \u2014tp 2\n",
            'a.sh:1 \u2014tp begins with a dash that is no "-"; write --tp',
        ),
        (
            f"cat <<EOF\nhello\n{SERVE}\n",
            "a.sh:1 the here-document <<EOF has no end, and takes the rest of the script; end it with a line EOF",
        ),
        (
            f"cat <<'EOF'\nhello\n  EOF\n{SERVE}\n",
            "a.sh:1 the here-document <<EOF has no end, and takes the rest of the script; "
            "take the blanks out of line 3",
        ),
    ],
)
def test_what_a_line_break_or_a_dash_takes_out_of_the_command_is_told(blamed, text, told):
    assert blamed(text) == [told]


@pytest.mark.parametrize(
    "text",
    [
        f"while [ $# -gt 0 ]; do case $1 in --port) P=$2;; -x|--y) shift;; --z=*) ;; esac; shift; done\n{SERVE}\n",
        f"ARGS=(\n  --tp 2\n  # --dp 2\n)\n{SERVE} ${{ARGS[@]}}\n",
        f"# \u2013\u2013tp 2\necho '\u2013x'\ncat <<EOF\n--port 3\n\u2013x\nEOF\n{SERVE}\n",
        f"cat <<-EOF\n\tx\n\tEOF\n{SERVE}\n",
        f"if [[ -f x && -n $Y || ! -d z ]]; then :; fi\nif [[ -f x &&\n  -n $Y ]]; then :; fi\n{SERVE}\n",
        f"X=$((1 << 3))\n((X = X<<2))\n{SERVE}\n",
        f"cat <<EOF > x\n{SERVE}\nEOF\n{SERVE}",
    ],
)
def test_flags_that_stand_where_they_may_are_no_slips(blamed, text):
    assert blamed(text) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.json", "{}", "llmux's is given with --llmux;"),
        ("c.yaml", "models:\n  q: 1\n", "muxd import llama-swap one from llama-swap's;"),
    ],
)
def test_of_another_programs_configuration_the_way_in_is_told(name, text, told):
    assert told in why_no_script(Path(name), text)
