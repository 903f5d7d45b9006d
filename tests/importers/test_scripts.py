"""What muxd takes from a launch script, and what it says of one that it cannot use."""

import json
import os
from pathlib import Path

import pytest

from muxd.importers.scripts import LaunchScript, flag, gpu_list, read_script

from .bash import Bash, program_of
from .shell.test_walk import write

SERVE = "python -m sglang.launch_server"

#: A script -> the name that clients use, and the port.  All of them are run by bash too.
LAUNCHES = {
    f'MODEL_NAME="org/a"\nPORT=30001\n{SERVE} --model-path /w --port $PORT': ("org/a", 30001),
    f"MODEL_NAME='org/a' PORT=30001\n{SERVE} --port $PORT": ("org/a", 30001),
    f"MODEL_NAME=org/a; PORT=30001; {SERVE} --port $PORT": ("org/a", 30001),
    f"export MODEL_NAME=org/a PORT=30001\n{SERVE} --port $PORT": ("org/a", 30001),
    f"  export   MODEL_NAME=org/a  # a comment\n\tPORT=30001 # another\n{SERVE} --port $PORT": ("org/a", 30001),
    f"MODEL_NAME='a # b'\nPORT=30001\n{SERVE} --port $PORT": ("a # b", 30001),
    f"PORT=${{PORT:-30001}}\n{SERVE} --model a --port ${{PORT}}": ("a", 30001),
    f"PORT=${{NOTHING-30001}}\n{SERVE} --model a --port $PORT": ("a", 30001),
    f": ${{PORT:=30001}}\n{SERVE} --model a --port=$PORT": ("a", 30001),
    f"PORT=3000$GIVEN\n{SERVE} --model a --port $PORT": ("a", 30007),
    f"BASE=30000; PORT=$((BASE + 1))\n{SERVE} --model a --port $PORT": ("a", 30001),
    f"{SERVE} --model-path=org/a --port=30001": ("org/a", 30001),
    f'{SERVE} --model-path "org/a" --port "30001"': ("org/a", 30001),
    f"{SERVE} --model 'org/a' --port '30001'": ("org/a", 30001),
    f"exec {SERVE} \\\n  --model org/a \\\n  --port \\\n  30001": ("org/a", 30001),
    "sglang serve --model-path org/a --port 30001": ("org/a", 30001),
    f"{SERVE} --port 1 --model a --port 30001": ("a", 30001),
    f'ARGS=(--port 30001)\nARGS+=(--model-path "org/a")\nexec {SERVE} "${{ARGS[@]}}"': ("org/a", 30001),
    f'FLAGS="--model-path org/a --port 30001"\n{SERVE} $FLAGS': ("org/a", 30001),
    f'serve() {{ exec {SERVE} --model-path "$1" --port "$2"; }}\nserve org/a 30001': ("org/a", 30001),
    f"if [ -n \"${{DEBUG:-}}\" ]; then PORT=1; else PORT=30001; fi\n{SERVE} --model a --port $PORT": ("a", 30001),
    f"set -e\ncd /\n{SERVE} --model-path org/a --port 30001": ("org/a", 30001),
    f"for M in org/a; do {SERVE} --model-path $M --port 30001; done": ("org/a", 30001),
    f"case a in a) M=org/a;; *) M=b;; esac\n{SERVE} --model-path $M --port 30001": ("org/a", 30001),
    f"source ./more.env\n{SERVE} --model-path /w --port $PORT": ("org/a b", 31000),
    f"set -a; . ./more.env; set +a\nexec {SERVE} --model-path /w --port $PORT": ("org/a b", 31000),
    f"PORT=30001 MODEL_NAME=org/a {SERVE} --port 30001": ("org/a", 30001),
    f"nohup {SERVE} --model org/a --port 30001 > log 2>&1 &\nwait": ("org/a", 30001),
    f"env CUDA_VISIBLE_DEVICES=0 {SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"bash -c '{SERVE} --model org/a --port 30001'": ("org/a", 30001),
    f"echo {SERVE} --port 1 --model b\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"cat <<EOF\n{SERVE} --port 1 --model b\nPORT=2\nEOF\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"# PORT=1\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"python warm_up.py --model b\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    "python serve.py --model org/a --port 30001": ("org/a", 30001),
    f'ROOT="$(cd "$(dirname "$0")" && pwd)"\n{SERVE} --model-path "$ROOT/w" --port 30001': ("HERE/w", 30001),
    f'{SERVE} --model ~/w --port 30001 "$@" ${{EXTRA_ARGS:-}}': ("HERE/home/w", 30001),
}  # fmt: skip


@pytest.fixture
def read(bash: Bash):
    """Read a script's text as it would be run."""

    def read(text: str, **more: str) -> LaunchScript:
        return read_script(write(bash, text), "a.sh", bash.environ | more, bash.folder)

    return read


@pytest.mark.parametrize(("text", "expected"), LAUNCHES.items())
def test_name_and_port_are_those_that_bash_gives_the_server(bash, text, expected):
    script = write(bash, text)
    found = read_script(script, "a.sh", bash.environ, bash.folder)
    assert found.problems == []
    assert found.port is not None
    name = expected[0].replace("HERE", str(bash.folder))
    assert (found.served_names[0].text, int(found.port.text)) == (name, expected[1])
    servers = [started for started in bash.run(script) if flag(started.argv, "--port") is not None]
    assert {flag(server.argv, "--port") for server in servers} == {str(expected[1])}
    model = flag(servers[-1].argv, "--model-path", "--model")
    assert "MODEL_NAME" in text or "more.env" in text or model == name


def test_there_are_at_least_thirty_of_them():
    assert len(LAUNCHES) >= 30


def test_the_environment_that_it_will_run_with_counts(read):
    text = f"PORT=${{PORT:-30001}}\n{SERVE} --model-path ${{MODEL}} --port $PORT"
    found = read(text, PORT="31000", MODEL="org/b")
    assert (found.port.text, found.served_names[0].text) == ("31000", "org/b")


def test_a_name_in_the_environment_alone_is_not_the_scripts(read):
    found = read(f"{SERVE} --model-path org/a --port 30001", MODEL_NAME="other", PORT="1")
    assert (found.served_names[0].text, found.port.text) == ("org/a", "30001")


def test_the_name_that_the_server_serves_is_a_further_one(read):
    found = read(f"MODEL_NAME=org/a\n{SERVE} --model-path /w --port 1 --served-model-name a")
    assert [fact.text for fact in found.served_names] == ["org/a", "a"]


def test_facts_know_their_lines(read):
    found = read(f"\nMODEL_NAME=a\n\nPORT=1\n{SERVE} --port $PORT")
    assert [str(fact.place) for fact in (found.served_names[0], found.port)] == ["a.sh:2", "a.sh:4"]
    assert str(found.launch) == "a.sh:5"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("--enable-memory-saver --enable-weights-cpu-backup", 1),
        ("--enable-memory-saver", 2),
        ("--enable-weights-cpu-backup", 3),
        ("", 3),
    ],
)
def test_the_sleep_level_is_what_the_flags_can_do(read, flags, level):
    found = read(f"{SERVE} --model a --port 1 {flags}")
    assert found.sleep_level == level
    assert [found.can_sleep_at(n) for n in (1, 2, 3)] == [level == 1, level <= 2, True]


def test_what_a_server_is_for_is_kept_and_no_other_flag(read):
    assert read(f"FLAGS='--is-embedding --tp 2'\n{SERVE} --model a --port 1 --x $FLAGS").telling_flags == (
        "--is-embedding",
    )
    assert read(f"python embed.py --is-embedding\n{SERVE} --model a --port 1").telling_flags == ()


@pytest.mark.parametrize("text", [f"{SERVE} --model a --port 1 $(flags)", f"{SERVE} --config c.yaml --port 1 --model a",
                                  "MODEL_NAME=a PORT=1\n./start-it"])  # fmt: skip
def test_flags_that_cannot_be_seen_may_be_there(read, text):
    found = read(text)
    assert found.problems == []
    assert found.sleep_level == 3
    assert found.can_sleep_at(1)


@pytest.mark.parametrize(
    ("text", "gpus", "tensor_parallel"),
    [
        ("export CUDA_VISIBLE_DEVICES=2,3\n{}", (2, 3), 1),
        ("CUDA_VISIBLE_DEVICES=1 {}", (1,), 1),
        ("CUDA_VISIBLE_DEVICES=1\n{}", None, 1),  # not exported: the server does not see it
        ("export CUDA_VISIBLE_DEVICES=GPU-5a\n{} --tp 2", None, 2),
        ("{} --tensor-parallel-size=4", None, 4),
        ("{}", None, 1),
    ],
)
def test_gpus_are_what_the_server_is_given(read, text, gpus, tensor_parallel):
    found = read(text.replace("{}", f"{SERVE} --model a --port 1"))
    assert (found.gpus, found.tensor_parallel) == (gpus, tensor_parallel)


def test_gpus_of_the_environment_count_unless_the_script_says_otherwise(read):
    serve = f"{SERVE} --model a --port 1"
    assert read(serve, CUDA_VISIBLE_DEVICES="3").gpus == (3,)
    assert read(f"unset CUDA_VISIBLE_DEVICES\n{serve}", CUDA_VISIBLE_DEVICES="3").gpus is None


@pytest.mark.parametrize(("text", "gpus"), [("0", (0,)), ("1, 0", (1, 0)), ("", None), ("-1", None), ("MIG-1", None)])
def test_a_list_of_gpus_is_one_of_numbers(text, gpus):
    assert gpu_list(text) == gpus


def test_keys_are_read_and_not_shown(read):
    found = read(f"KEY=geheim\n{SERVE} --model a --port 1 --api-key $KEY --admin-api-key=chef")
    assert (found.api_key, found.admin_key) == ("geheim", "chef")


@pytest.mark.parametrize("first", ["", "#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/python3", "# !/bin/sh"])
def test_it_is_run_by_bash_as_sglangmux_runs_it(read, bash, first):
    found = read(f"{first}\nMODEL_NAME=a PORT=1\n./x")
    assert Path(found.argv[0]).name == "bash"
    assert found.argv[1:] == (str(bash.folder / "script.sh"),)


# What cannot be used

WHEN = "is known only when it runs"
ELSE = "write it plainly, or give {} to [models.NAME] in muxd.toml beside `script`"
WRONG = {
    "echo hello": [
        "1 served_names: no model: it neither sets MODEL_NAME nor starts a server with --model-path; "
        "add a line MODEL_NAME=NAME",
        "1 port: no port: it neither sets PORT nor starts a server with --port; add a line PORT=NUMBER",
    ],
    f"\n{SERVE} --model-path a": [
        "2 port: no port: it neither sets PORT nor starts a server with --port; add a line PORT=NUMBER"
    ],
    f"\nPORT=$(free_port)\n{SERVE} --model a --port $PORT": [
        f"2 port: the port: $(free_port) {WHEN}; {ELSE.format('port')}"
    ],
    f"{SERVE} --model a \\\n --port `free_port`": [f"2 port: the port: `free_port` {WHEN}; {ELSE.format('port')}"],
    f"MODEL_NAME=$(pick)\n{SERVE} --port 1": [
        f"1 served_names: the model's name: $(pick) {WHEN}; {ELSE.format('served_names')}"
    ],
    f"{SERVE} --model a $(more)": [f"1 port: the port: $(more) {WHEN}; {ELSE.format('port')}"],
    f"read PORT\n{SERVE} --model a --port $PORT": [f"1 port: the port: $PORT {WHEN}; {ELSE.format('port')}"],
    f"PORT=$((RANDOM % 100 + 30000))\n{SERVE} --model a --port $PORT": [
        f"1 port: the port: $((RANDOM % 100 + 30000)) is not calculated here; {ELSE.format('port')}"
    ],
    f"PORT=1\nif ping -c1 host\nthen PORT=2; fi\n{SERVE} --model a --port $PORT": [
        f"2 port: the port: $PORT depends on what line 2 finds when it runs; {ELSE.format('port')}"
    ],
    f"MODEL_NAME=a\nPORT=30x\n{SERVE} --port $PORT": ['2 port: "30x" is not a port; write a number from 1 to 65535'],
    f"PORT=70000\n{SERVE} --model a": ['1 port: "70000" is not a port; write a number from 1 to 65535'],
    f"PORT=0\n{SERVE} --model a": ['1 port: "0" is not a port; write a number from 1 to 65535'],
    f"PORT=1\n{SERVE} --model a --port 2": [
        "2 port: PORT is 1 (line 1), but the server is started with --port 2; make them one"
    ],
    f"set -u\n{SERVE} --model a --port $PORT": [
        "2 script: $PORT is not set; set it where muxd is started, or write a default: ${PORT:-VALUE}"
    ],
    f"{SERVE} --model ${{MODEL:?name one}} --port 1": [
        "1 script: $MODEL is not set: name one; set it where muxd is started"
    ],
    f"{SERVE} --model a --port 1 &\n{SERVE} --model b --port 2\nwait": [
        "2 script: line 1 and line 2 start servers on different ports; muxd runs one server with each script: split it"
    ],
    f"{SERVE} --model a --port 1 --admin-api-key $(pass show key)": [
        f"1 script.--admin-api-key: --admin-api-key: $(pass show key) {WHEN}, and muxd needs it; "
        "write it plainly, or export it where muxd is started"
    ],
    f'MODEL_NAME="a\nPORT=1\n{SERVE}': [f'1 port: there is no closing "; {ELSE.format("port and served_names")}'],
    f"if true\n{SERVE} --model a --port 1\n": [
        f"3 port: the file ends, and then is missing; {ELSE.format('port and served_names')}"
    ],
    "\ufeff#!/bin/sh\nMODEL_NAME=a\nPORT=1": [
        "1 script: begins with a byte order mark, which shells stumble over; "
        "remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' a.sh"
    ],
    "MODEL_NAME=a\r\nPORT=1\r\n./x": [
        "1 script: lines end as on Windows, and shells stumble over it; convert it: sed -i 's/\\r$//' a.sh"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), WRONG.items())
def test_what_cannot_be_known_is_told_with_its_line_and_what_to_do(read, text, problems):
    found = read(text).problems
    assert [f"{problem.place.line} {'.'.join(problem.key)}: {problem.text}" for problem in found] == problems
    assert {problem.place.file for problem in found} == {"a.sh"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path, content):
    path = tmp_path / "a.sh"
    if content:
        path.write_bytes(content)
    (problem,) = read_script(path, "a.sh", {}, tmp_path).problems
    assert "; " in problem.text
    assert problem.place.line == 0


def test_a_folder_is_no_script(tmp_path):
    (problem,) = read_script(tmp_path, "a.sh", {}, tmp_path).problems
    assert problem.text == "is not a file; correct the path"


def test_of_two_ways_that_agree_it_does_not_matter_which_is_taken(read):
    text = f"if nvidia-smi; then\n{SERVE} --model a --port 1 --x\nelse\n{SERVE} --model a --port 1\nfi"
    found = read(text)
    assert (found.problems, found.port.text) == ([], "1")


def test_a_way_that_ends_the_script_does_not_count(read):
    text = f"PORT=1\nnvidia-smi || {{ PORT=2; exit 1; }}\ncd / || exit\n{SERVE} --model a --port $PORT"
    found = read(text)
    assert (found.problems, found.port.text) == ([], "1")


def test_what_cannot_be_looked_into_does_not_hide_what_can(read):
    text = f'eval "$(conda shell.bash hook)"\nconda activate x\nsource /nowhere\nPORT=1\n{SERVE} --model a --port $PORT'
    found = read(text)
    assert (found.problems, found.port.text) == ([], "1")


def test_in_a_container_the_port_outside_counts(read):
    text = "MODEL_NAME=a\nPORT=30001\ndocker run -p $PORT:30000 sglang python -m sglang.launch_server --port 30000"
    found = read(text)
    assert (found.problems, found.port.text) == ([], "30001")


def test_port_and_name_that_are_set_are_enough(read):
    found = read("MODEL_NAME=org/a\nPORT=30001\nexport PORT\nexec ./serve-it $(whatever)")
    assert (found.problems, found.port.text, found.served_names[0].text) == ([], "30001", "org/a")


ODD = ["while true; do :; done", "f() { f; }; f", "until false; do X=x$X; done", "X=$X$X" * 50, "A" * 5000, "\\"]
ODD += ["(" * 500, "$((" * 300, "${X:-" * 300, "if " * 300, "'", "$'", "${", "$(", "`", "((", "[[", "case x in"]
ODD += ["A=(", "a &&", "|", ";;", "&", ")", "\0", "X=1;" * 3000, "[[ a | b ]]", "for x in a | b; do", "f() {", "<<"]
ODD += ["X=a; while :; do X=$X$X; done", 'A=(a); while :; do A+=("${A[@]}"); done', "X=$((1<<99999))"]
ODD += ["ls /*/*/*/*/*", "[[ x == @(a|b) ]]"]


@pytest.mark.parametrize("text", ODD)
def test_no_text_is_more_than_a_problem(read, text):
    for whole in (text, f"{text}\nMODEL_NAME=a\nPORT=1\n./x", f"MODEL_NAME=a\nPORT=1\n./x\n{text}"):
        for problem in read(whole).problems:
            assert "; " in problem.text


def test_scripts_are_never_run(read, bash):
    read(f"touch here\necho x > there\n$(touch where)\n: `touch hither` <(touch thither)\n{SERVE} --model a --port 1")
    assert {path.name for path in Path(bash.folder).iterdir()} == {"bin", "more.env", "script.sh"}


def test_what_bash_notes_is_what_was_started(bash):
    """The truth that the others are compared with is one."""
    assert [s.argv for s in bash.run(write(bash, "nohup python 'a b' ''"))] == [["python", "a b", ""]]
    assert program_of(["env", "A=1", "/x/python", "b"]) == ["python", "b"]
    assert json.loads(json.dumps(bash.run(write(bash, "PORT=5 python"))[0].environ)) == {"PORT": "5"}


def test_a_pipe_is_no_script_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.sh")
    (problem,) = read_script(tmp_path / "pipe.sh", "pipe.sh", {}, tmp_path).problems
    assert problem.text == "is not a file; correct the path"
