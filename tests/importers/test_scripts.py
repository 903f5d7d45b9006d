"""What muxd takes from a launch script's text: every fact right, or none; and what it says of one that is no use."""

import json
import os
from pathlib import Path

import pytest

from muxd.config.flags import flag
from muxd.importers.scripts import LaunchScript, read_script
from tests.seeds import thorough

from .bash import Bash, program_of, write

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
    f"MODEL_NAME=org/a PORT=30001\n{SERVE} --port $PORT": ("org/a", 30001),
    f"MODEL_NAME=org/a PORT=30001 # both\n\n  exec {SERVE} --port $PORT": ("org/a", 30001),
    f"{SERVE} --model org/a `# a comment` \\\n  --port 30001": ("org/a", 30001),
    f"2>&1 {SERVE} --model org/a > log --port 30001": ("org/a", 30001),
    f"{SERVE} > log --model org/a <<< x --port 30001": ("org/a", 30001),
    f"python - <<'E' &\nPORT=1\nE\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"cat <<E > x | tee y\n  E\n{SERVE} --port 1 --model b\nE\n{SERVE} --model org/a --port 30001": ("org/a", 30001),
    f"serve() ( {SERVE} --model org/a --port 30001 )\nserve": ("org/a", 30001),
    f"{SERVE} --model org/a --port 3000'1'\"\"": ("org/a", 30001),
}  # fmt: skip


#: Those of which something is asked for: it is known only when it runs, or not written as plainly as it is read.
HIDDEN = (
    "PORT=$((BASE + 1))", "serve()", "then PORT=1;", "case a in", "for M in", 'ROOT="$(cd', "BASE=30000",
    "./more.env", "PORT=30001 MODEL_NAME=org/a python", "bash -c", "`# a comment`", "> log --", "<<'E' &", "| tee y",
)  # fmt: skip


@pytest.fixture
def read(bash: Bash):
    """Read a script's text as it would be run."""

    def read(text: str, **more: str) -> LaunchScript:
        return read_script(write(bash, text), "a.sh", bash.environ | more, bash.folder)

    return read


@pytest.mark.parametrize(("text", "expected"), LAUNCHES.items())
def test_name_and_port_are_those_that_bash_gives_the_server_or_unknown(bash, text, expected):
    script = write(bash, text)
    found = read_script(script, "a.sh", bash.environ, bash.folder)
    assert found.problems == []
    name = expected[0].replace("HERE", str(bash.folder))
    if not any(hidden in text for hidden in HIDDEN):
        assert (found.names[0], found.port) == (name, expected[1])
    assert found.port in (0, expected[1])
    servers = [started for started in bash.run(script) if flag(started.argv, ("--port",)) is not None]
    assert {flag(server.argv, ("--port",)) for server in servers} == {str(expected[1])}
    model = flag(servers[-1].argv, ("--model-path", "--model"))
    assert not found.names or found.names[0] in (name, model)
    assert "MODEL_NAME" in text or "more.env" in text or model == name


def test_there_are_at_least_thirty_of_them_and_most_are_plain():
    assert sum(not any(hidden in text for hidden in HIDDEN) for text in LAUNCHES) >= 30


#: Public scripts cut down to what is hard in each; what bash gives the server, "" where it is asked for.
FIELD = {
    "pkill -f sglang.launch_server || true\nexec {} --model-path Q --port 8123": ("Q", 8123),
    'pgrep -f "sglang.launch" && pkill -f "sglang.launch_server"\nexec {} --model-path Q --port 8123': ("Q", 8123),
    "ps aux | grep sglang.launch_server | awk '{print $2}' | xargs -r kill -9\n{} --model Q --port 8123": ("Q", 8123),
    "cmd=$(cat <<EOF\n{} --model-path /m --api-key k1 --port 6011\nEOF\n)\neval $cmd": ("", 0),
    "{} --model-path A/b": ("A/b", 30000),
    "PORT=30005\n{} --model-path A/b": ("A/b", 30000),
    'if [ "$#" -ne 2 ]; then exit 1; fi\n{} --model-path "$1" --port "$2"': ("", 0),
    'MODEL="${1:?model required}"\n{} --model-path "$MODEL" --port 30000': ("", 30000),
    "{} --model-pa A/b --por 30001": ("A/b", 30001),
    "for i in $(seq 0 1); do\nPORT=$((30000 + i))\n{} --model-path A/b --port $PORT &\ndone\nwait": ("A/b", 0),
    "for i in {0..1}; do\n{} --model-path A/b --port $((30000 + i)) &\ndone\nwait": ("A/b", 0),
    'PORT=30000; M=A/b\nwhile getopts "p:m:" o; do case $o in p) PORT=$OPTARG;; m) M=$OPTARG;; esac; done\n'
    '{} --model-path "$M" --port "$PORT"': ("", 0),
    'bash -c "source venv/bin/activate && {} --model-path A/b --port 30000"': ("", 0),
    'tmux new-session -d -s s "{} --model-path A/b --port 30000"': ("", 0),
    'set -a; source "$(dirname "$0")/.env"; set +a\n{} --model-path "$MODEL" --port "$P"': ("", 0),
    "export $(grep -v '^#' .env | xargs)\n{} --model-path \"$MODEL\" --port \"${P:-30000}\"": ("", 0),
    '{} --model-path A/b --port 30000 --api-key "$(cat key.txt)"': ("A/b", 30000),
    'case "${1:-q}" in q) M=A/q; P=30000;; l) M=A/l; P=30001;; esac\n{} --model-path $M --port $P': ("", 0),
    "if command -v sglang >/dev/null; then sglang serve --model-path A/b --port 30000; "
    "else {} --model-path A/b --port 30000; fi": ("A/b", 30000),
    "for k in 1 2 3; do\n{} --model-path A/b --port 30000\ndone": ("A/b", 30000),
    "python -m sglang_router.launch_server --model-path A/b --dp-size 4 --port 30000": ("A/b", 30000),
    "sglang serve Qwen/Q --port 30001": ("Qwen/Q", 30001),
    "trap 'pkill -f sglang.launch_server' EXIT\n{} --model-path A/b --port 30000": ("A/b", 30000),
    "{} --model-path A/b --port 30000\npkill -f sglang.launch_server": ("A/b", 30000),
    "{} --help > flags.txt\nexec {} --model-path A/b --port 30000": ("A/b", 30000),
    'echo "starting: {} --port 1"\necho {} --port 1 --model-path Z\nexec {} --model-path A/b --port 3': ("A/b", 3),
    "{} --model-path A/b --port 30000 &\npython -m sglang.bench_serving --port 30000\nwait": ("A/b", 30000),
    "{} --model-path A/b --port 30001\n{} --model-path A/c --port 30002": ("", 0),
    "BASE=30000; let PORT=BASE+5\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "printf -v PORT '%d' 30007\n{} --model-path A/b --port $PORT": ("A/b", 0),
    'read -r M PORT <<< "A/b 30008"\n{} --model-path $M --port $PORT': ("", 0),
    '{} --model-path "Qwen/$(echo q | tr a-z A-Z)" --port 30000': ("", 30000),
    "{} --config server.yaml": ("", 0),
    "if nvidia-smi | grep -q H200; then P=1; else P=2; fi\n{} --model-path A/b --port $P": ("A/b", 0),
    'start() { local m=$1; {} --model-path "$m" --port "$2"; }\nstart A/b 30011': ("", 0),
    "helper() { echo {} --port 1; }\n{} --model-path A/b --port 30000": ("A/b", 30000),
    "PORT=1\nset_port() { PORT=2; }\nset_port\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\n[ -z x ] || PORT=2\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\n(PORT=2)\nPORT=3 true\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\necho x | PORT=2\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\nread PORT < /dev/null\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\ntime PORT=2\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\n((PORT++))\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\nX=$((PORT=7))\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\n. ./change.sh\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "declare -i PORT=3+4\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "P=(1 2)\nP[0]=5\n{} --model-path A/b --port $P": ("A/b", 0),
    "IFS=:; X=1:2\n{} --model-path A/b --port $X": ("A/b", 0),
    "declare -n R=PORT; R=5\n{} --model-path A/b --port $PORT": ("", 0),
    "PORT=1\nlocal PORT=2\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "return\n{} --model-path A/b --port 1": ("A/b", 1),
    "X=$({} --model-path A/b --port 1)\n{} --model-path A/c --port 2": ("", 0),
    '"$NONE" {} --model-path A/b --port 1\n{} --model-path A/c --port 2': ("", 0),
    "$(echo echo) {} --model-path A/b --port 1\n{} --model-path A/c --port 2": ("", 0),
    "PID=$(pgrep -f sglang.launch_server)\n{} --model-path A/b --port 1": ("A/b", 1),
    "bash -c 'exec {} --model-path A/b --port 1'\n{} --model-path A/c --port 2": ("", 0),
    "PORT=1\nA=(1 2); true ${A[PORT=5]}\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\ncoproc PORT { true; }\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "trap 'PORT=5' ERR\nPORT=1\nfalse\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "trap 'kill $(jobs -p)' EXIT\nPORT=1\n{} --model-path A/b --port $PORT &\nwait $!": ("A/b", 1),
    "readonly PORT=1\n{} --model-path A/b --port $PORT": ("A/b", 1),
    "readonly PORT=1\nPORT=5\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "PORT=1\ntrue &\nwait -n -p PORT\n{} --model-path A/b --port $PORT": ("A/b", 0),
    "python other.py --model o --port 1\npython -m sglang.bench_serving --model o --port 2": ("o", 0),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FIELD.items())
def test_scripts_of_the_field_are_read_right_or_asked_for(read, bash, text, expected):
    found = read(text.replace("{}", SERVE))
    assert (next(iter(found.names), ""), found.port) == expected
    started = [s.argv for s in bash.run(bash.folder / "script.sh") if {"sglang.launch_server", "serve"} & set(s.argv)]
    servers = [argv for argv in started if "--help" not in argv]
    for argv in servers[:1]:
        model = argv[2] if "serve" in argv and not argv[2].startswith("-") else flag(argv, ("--model-path", "--model"))
        assert expected[0] in ("", model)
        assert str(expected[1]) in ("0", flag(argv, ("--port",)) or flag(argv, ("--por",)) or "30000")


def test_the_environment_that_it_will_run_with_counts(read):
    text = f"PORT=${{PORT:-30001}}\n{SERVE} --model-path ${{MODEL}} --port $PORT"
    found = read(text, PORT="31000", MODEL="org/b")
    assert (found.port, found.names) == (31000, ("org/b",))


def test_a_name_in_the_environment_alone_is_not_the_scripts(read):
    found = read(f"{SERVE} --model-path org/a --port 30001", MODEL_NAME="other", PORT="1")
    assert (found.names, found.port) == (("org/a",), 30001)


def test_the_name_that_the_server_serves_is_a_further_one(read):
    found = read(f"MODEL_NAME=org/a\n{SERVE} --model-path /w --port 1 --served-model-name a")
    assert (found.names, found.names_by) == (("org/a", "a"), "contract")


def test_facts_know_their_lines(read):
    found = read("\nMODEL_NAME=a\n\nPORT=1\n./serve --port $PORT")
    assert [str(found.named), str(found.ported)] == ["a.sh:2", "a.sh:4"]
    found = read(f"\nMODEL_NAME=a\n\nPORT=1\n{SERVE} --port $PORT")
    assert [str(found.named), str(found.ported), str(found.launch)] == ["a.sh:2", "a.sh:5", "a.sh:5"]


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("--enable-memory-saver --enable-weights-cpu-backup", 1),
        ("--enable-memory-saver", 2),
        ("--enable-weights-cpu-backup", 3),
        ("", 3),
        ("$(flags)", None),
        ("--config c.yaml", None),
    ],
)
def test_the_sleep_level_is_what_the_flags_can_do(read, flags, level):
    assert read(f"{SERVE} --model a --port 1 {flags}").sleep_level == level


def test_what_a_server_is_for_is_kept_and_no_other_flag(read):
    assert read(f"FLAGS='--is-embedding --tp 2'\n{SERVE} --model a --port 1 --x $FLAGS").telling_flags == (
        "--is-embedding",
    )
    assert read(f"python embed.py --is-embedding\n{SERVE} --model a --port 1").telling_flags == ()


#: What bash gives the server: a port that is read so or not at all.
TWISTS = [
    "serve() { {} --port 30000; }\nCUDA_VISIBLE_DEVICES=3 serve",
    "CUDA_VISIBLE_DEVICES=3 eval '{} --port 30000'",
    "CUDA_VISIBLE_DEVICES=3 . ./serve.sh",
    "CUDA_VISIBLE_DEVICES=3 exec {} --port 30000",
    "CUDA_VISIBLE_DEVICES=3 command {} --port 30000",
    "f() { local CUDA_VISIBLE_DEVICES=2; {} --port 30000; }\nexport CUDA_VISIBLE_DEVICES=1\nf",
    "f() { local CUDA_VISIBLE_DEVICES; CUDA_VISIBLE_DEVICES=2; {} --port 30000; }\nexport CUDA_VISIBLE_DEVICES=1\nf",
    "export CUDA_VISIBLE_DEVICES=1\ndeclare +x CUDA_VISIBLE_DEVICES\n{} --port 30000",
    "declare -n R=CUDA_VISIBLE_DEVICES\nexport CUDA_VISIBLE_DEVICES=0\nR=3\n{} --port 30000",
    "declare -i GPU=1\nGPU+=1\nCUDA_VISIBLE_DEVICES=$GPU {} --port 30000",
    "declare -i GPU=1\nGPU=GPU+1\nCUDA_VISIBLE_DEVICES=$GPU {} --port 30000",
    "declare -i PORT=3\nPORT+=1\n{} --port $PORT",
    "P=30000; NEXT=$((P++))\n{} --port $P",
    "P=30000; NEXT=$((P += 5))\n{} --port $P",
    "A=(0 1 2); unset 'A[0]'\nCUDA_VISIBLE_DEVICES=${A[@]:0:1} {} --port 30000",
    "A=([5]=3 [1]=2)\nCUDA_VISIBLE_DEVICES=${A[@]:0:1} {} --port 30000",
    "A=([1]=3 [0]=2)\nCUDA_VISIBLE_DEVICES=${A[@]:0:1} {} --port 30000",
    'A=(2 3)\nCUDA_VISIBLE_DEVICES=$(IFS=,; echo "${A[*]}") {} --port 30000 --tp 2',
    "case ab in a*) export CUDA_VISIBLE_DEVICES=2;;& *b) export CUDA_VISIBLE_DEVICES=3;; esac\n{} --port 30000",
    "case ab in a*) export CUDA_VISIBLE_DEVICES=2;& x) export CUDA_VISIBLE_DEVICES=3;; esac\n{} --port 30000",
    "N=CUDA_VISIBLE_DEVICES; printf -v $N 3; export $N\n{} --port 30000",
    "N=$(echo CUDA_VISIBLE_DEVICES | cat); export CUDA_VISIBLE_DEVICES=1; printf -v $N 3\n{} --port 30000",
]


@pytest.mark.parametrize("text", TWISTS)
def test_the_port_is_read_as_bash_gives_it_or_not_at_all(read, bash, text):
    whole = text.replace("{}", f"{SERVE} --model a")
    (bash.folder / "serve.sh").write_text(f"{SERVE} --model a --port 30000\n")
    found = read(whole)
    (server,) = bash.run(write(bash, whole))
    assert str(found.port) in ("0", flag(server.argv, ("--port",)))


PUBLISHED = {
    "-p 31000:30000": 31000,
    "-p 127.0.0.1:31000:30000/tcp": 31000,
    "-dp 31000:30000 -p 9:9": 31000,
    "--publish=31000:30000": 31000,
    "--network host": 30000,
    "--net=host": 30000,
    "-p 30000-30009:30000-30009": 0,
    "-p $(free):30000": 0,
    "": 0,
}


@pytest.mark.parametrize(("options", "port"), PUBLISHED.items())
def test_a_containers_server_is_reached_where_it_is_published(read, options, port):
    found = read(f"docker run {options} image {SERVE} --model a --port 30000")
    assert (found.problems, found.port) == ([], port)


@pytest.mark.parametrize(
    ("before", "known"),
    [
        ("source ./venv/bin/activate", True),
        (". /opt/conda/etc/profile.d/conda.sh && conda activate x", True),
        ('eval "$(conda shell.bash hook)"\nconda activate x', True),
        ("set -a; source ./more.env; set +a", False),
        (". ./gone.sh", False),
        ('eval "$(./settings)"', False),
        ('eval "PORT=2; $(conda shell.bash hook)"', False),
    ],
)
def test_what_is_read_in_or_evaluated_makes_unknown_what_it_may_set(read, before, known):
    found = read(f"MODEL_NAME=a\nPORT=1\n{before}\n{SERVE} --model /w --port $PORT")
    assert (found.port, found.names_by) == ((1, "contract") if known else (0, "flag"))
    assert str(found.computed) == ("None" if known else "a.sh:1")


def test_what_is_no_file_is_not_read_in_and_not_waited_for(read, bash):
    os.mkfifo(bash.folder / "pipe")
    for name in ("./pipe", "/dev/stdin", "/dev/zero", "./bin"):
        found = read(f"PORT=1\nsource {name}\n{SERVE} --model a --port $PORT")
        assert (found.names, found.port) == (("a",), 0)


@pytest.mark.parametrize("first", ["", "#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/python3", "# !/bin/sh"])
def test_it_is_run_by_bash_as_sglangmux_runs_it(read, bash, first):
    found = read(f"{first}\nMODEL_NAME=a PORT=1\n./x")
    assert Path(found.argv[0]).name == "bash"
    assert found.argv[1:] == (str(bash.folder / "script.sh"),)


# What cannot be used

WRONG = {
    "\ufeff#!/bin/sh\nMODEL_NAME=a\nPORT=1": [
        "1: begins with a byte order mark, which shells stumble over; "
        "remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' a.sh"
    ],
    "MODEL_NAME=a\r\nPORT=1\r\n./x": [
        "1: lines end as on Windows, and shells stumble over it; convert it: sed -i 's/\\r$//' a.sh"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), WRONG.items())
def test_what_cannot_be_used_is_told_with_its_line_and_what_to_do(read, text, problems):
    found = read(text).problems
    assert [f"{place.line}: {problem}" for place, problem in found] == problems
    assert {place.file for place, _ in found} == {"a.sh"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path, content):
    path = tmp_path / "a.sh"
    if content:
        path.write_bytes(content)
    ((place, problem),) = read_script(path, "a.sh", {}, tmp_path).problems
    assert "; " in problem
    assert place.line == 0


def test_a_folder_is_no_script(tmp_path):
    ((_, problem),) = read_script(tmp_path, "a.sh", {}, tmp_path).problems
    assert problem == "is not a file; correct the path"


def test_port_and_name_that_are_set_are_enough(read):
    found = read("MODEL_NAME=org/a\nPORT=30001\nexport PORT\nexec ./serve-it $(whatever)")
    assert (found.problems, found.port, found.names[0]) == ([], 30001, "org/a")


ODD = ["while true; do :; done", "f() { f; }; f", "until false; do X=x$X; done", "X=$X$X" * 50, "A" * 5000, "\\"]
ODD += ["(" * 500, "$((" * 300, "${X:-" * 300, "if " * 300, "'", "$'", "${", "$(", "`", "((", "[[", "case x in"]
ODD += ["A=(", "a &&", "|", ";;", "&", ")", "\0", "X=1;" * 3000, "[[ a | b ]]", "for x in a | b; do", "f() {", "<<"]
ODD += ["X=a; while :; do X=$X$X; done", 'A=(a); while :; do A+=("${A[@]}"); done', "X=$((1<<99999))"]
ODD += ["ls /*/*/*/*/*", "[[ x == @(a|b) ]]", "X=abcdefgh;" + "X=$X$X;" * 40, "A=(a b);" + 'A+=("${A[@]}");' * 40]
#: Each takes half a second of CPU or more.
LONG = ["f() { " + "f; " * 20 + "}; f", "a | " * 3000 + "b", "if a; then\n" * 2000]
LONG += ["X=aaaaaaaa;" + "X=$X$X;" * 12 + "echo " + "$X" * 3000]


@pytest.mark.parametrize("text", [*ODD, *thorough(*LONG)])
def test_no_text_is_more_than_unknown(read, text):
    for whole in (text, f"{text}\nMODEL_NAME=a\nPORT=1\n./x", f"MODEL_NAME=a\nPORT=1\n./x\n{text}"):
        for _, problem in read(whole).problems:
            assert "; " in problem


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
    ((_, problem),) = read_script(tmp_path / "pipe.sh", "pipe.sh", {}, tmp_path).problems
    assert problem == "is not a file; correct the path"


#: What is seen once it runs, and not before: servers of another kind, none, two of them, flags without a value.
SEEN_LATER = {
    "vllm serve org/a --port 8000": ("", 0),
    "exec /opt/bin/vllm serve org/a": ("", 0),
    "python -m vllm.entrypoints.openai.api_server --model org/a --port 8000": ("org/a", 8000),
    "ollama serve": ("", 0),
    "tar czf x.tgz /etc/hostname": ("", 0),
    "": ("", 0),
    "./serve-it": ("", 0),
    "{} --model a --port 1 &\n{} --model b --port 2\nwait": ("", 0),
    "{} --model a --port 1 &\n{} --model a --port 2\nwait": ("a", 0),
    "{} --model-path --port 1": ("", 1),
    "{} --model a --port": ("a", 0),
    "{} --model a --port $1 --tp 2": ("a", 0),
    "{} --model a --port 1 --host 10.0.0.5": ("a", 1),
}


@pytest.mark.parametrize(("text", "expected"), SEEN_LATER.items())
def test_what_only_its_process_can_tell_is_no_reason_to_refuse_a_script(read, text, expected):
    found = read(f"#!/bin/bash\n{text.replace('{}', SERVE)}\n")
    assert (next(iter(found.names), ""), found.port) == expected
    assert (found.problems, found.remarks) == ([], ())


#: What is not followed, and starts the server: nothing is taken from it, and its line is known.
NOT_FOLLOWED = [
    "serve() {{ {} --port $PORT; }}\nserve",
    "\n\nbash -c '{} --port 3'",
    "\ntmux new -d '{} --port 3'",
    "eval '{} --port 3'",
    "CMD='{} --port 3'\n$(echo $CMD)",
    "X=$({} --port 3)",
    'run() {{ "$@"; }}\nrun {} --port 3',
    "{} > log --port 3",
    "declare -n R=PORT\n{} --port 3",
    "cat <<-E\n\tE\n{} --port 3",
]


@pytest.mark.parametrize("text", NOT_FOLLOWED)
def test_of_a_server_that_is_not_started_plainly_nothing_is_taken(read, text):
    found = read(f"MODEL_NAME=a\nPORT=3\n{text.format(f'{SERVE} --model /w')}")
    assert (found.port, found.sleep_level, found.telling_flags, found.asks_key) == (0, None, (), False)
    assert found.names in (("a",), ())
    assert found.launch is not None
