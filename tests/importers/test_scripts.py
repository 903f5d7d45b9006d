"""What muxd takes from a launch script, and what it says of one that it cannot use."""

import json
import os
from pathlib import Path

import pytest

from muxd.importers.scripts import LaunchScript, flag, read_script

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


def uses(found: LaunchScript) -> list[tuple[tuple[str, ...] | None, int | None, str]]:
    return [(use.visible, use.needs.seen if use.needs else None, use.why) for use in found.gpu_uses]


SEEN = {
    "export CUDA_VISIBLE_DEVICES=2,3\n{}": (("2", "3"), 1),
    "CUDA_VISIBLE_DEVICES=1 {}": (("1",), 1),
    "CUDA_VISIBLE_DEVICES=1\n{}": (None, 1),  # not exported: the server does not see it
    "export CUDA_VISIBLE_DEVICES='0, 1'\n{} --tp 2": (("0", "1"), 2),
    "export CUDA_VISIBLE_DEVICES=GPU-5a,MIG-6b\n{} --tp 2": (("GPU-5a", "MIG-6b"), 2),
    "export CUDA_VISIBLE_DEVICES=1,-1,2\n{}": (("1",), 1),
    "export CUDA_VISIBLE_DEVICES=\n{}": ((), 1),
    "env CUDA_VISIBLE_DEVICES=5 {}": (("5",), 1),
    "export CUDA_VISIBLE_DEVICES=4\nenv -u CUDA_VISIBLE_DEVICES {}": (None, 1),
    "sudo CUDA_VISIBLE_DEVICES=5 nohup {}": (("5",), 1),
    "export CUDA_VISIBLE_DEVICES=4\nexec -c {}": (None, 1),
    "{} --tensor-parallel-size=4": (None, 4),
    "{} --tensor-parallel 4": (None, 4),
    "{} --tp 2 --dp-size 4": (None, 8),
    "{} --tp 4 --dp 4 --enable-dp-attention": (None, 4),
    "{} --tp-size 2 --pipeline-parallel-size 2": (None, 4),
    "{} --tp 8 --nnodes 2": (None, 4),
    "{} --base-gpu-id 2 --tp 2": (None, 4),
    "{}": (None, 1),
}


@pytest.mark.parametrize(("text", "expected"), SEEN.items())
def test_gpus_are_what_the_server_sees_and_uses(read, text, expected):
    found = read(text.replace("{}", f"{SERVE} --model a --port 1"))
    assert uses(found) == [(*expected, "")]


CONTAINED = {
    "docker run --gpus all": None,
    "docker run": None,
    "docker run --gpus 2": ("0", "1"),
    "docker run --gpus device=5": ("5",),
    "docker run --gpus '\"device=0,1\"'": ("0", "1"),
    "docker run --gpus=device=GPU-1a": ("GPU-1a",),
    "docker run --gpus '\"device=5,6\"' -e CUDA_VISIBLE_DEVICES=1": ("6",),
    "docker run -e CUDA_VISIBLE_DEVICES=1": ("1",),
    "docker run -dite CUDA_VISIBLE_DEVICES=1": ("1",),
    "CUDA_VISIBLE_DEVICES=3 docker run --gpus all": None,
    "CUDA_VISIBLE_DEVICES=3 docker run -e CUDA_VISIBLE_DEVICES": ("3",),
    "docker run --runtime nvidia --env=NVIDIA_VISIBLE_DEVICES=2": ("2",),
    "sudo podman run --device nvidia.com/gpu=4": ("4",),
    "podman run --device nvidia.com/gpu=all": None,
}


@pytest.mark.parametrize(("text", "expected"), CONTAINED.items())
def test_gpus_of_a_container_are_those_that_it_is_given(read, text, expected):
    found = read(f"{text} -p 1:1 image {SERVE} --model a --port 1", CUDA_VISIBLE_DEVICES="7")
    assert uses(found) == [(expected, 1, "")]


HIDDEN = [
    "export CUDA_VISIBLE_DEVICES=$(pick)\n{}",
    "CUDA_VISIBLE_DEVICES=one {}",
    "env CUDA_VISIBLE_DEVICES=$(pick) {}",
    "read CUDA_VISIBLE_DEVICES\nexport CUDA_VISIBLE_DEVICES\n{}",
    "{} --tp $(count)",
    "{} --tp auto",
    "{} $(more)",
    "{} --config more.yaml",
    "{} --base-gpu-id $(pick)",
    "./with-a-free-gpu {}",
    "srun {}",
    "export CUDA_VISIBLE_DEVICES=0; sudo {}",
    "docker run --gpus $(pick) image {}",
    "docker run --gpus capabilities=utility image {}",
    "docker run --env-file more.env image {}",
    "docker run --gpus device=1 -e CUDA_VISIBLE_DEVICES=1 image {}",
    "docker exec it {}",
    "export $(grep -v '^#' .env | xargs)\n{}",
    "./start-it",
    # Who starts it has ways of its own to choose them, or to add flags.
    "torchrun --nproc-per-node 4 {}",
    "accelerate launch --gpu_ids 1,2 {}",
    "cat flags | xargs {}",
    "uv run --env-file=.env {}",
    "pixi run {}",
    "APPTAINERENV_CUDA_VISIBLE_DEVICES=3 apptainer exec --nv image {}",
    "export CUDA_VISIBLE_DEVICES=3\nsingularity exec --nv -eC image {}",
    "docker compose run -p 1:1 it {}",
    "docker run --device /dev/nvidia3 image {}",
    "export CUDA_VISIBLE_DEVICES=2\nsudo --preserve-env=PATH {}",
    "export CUDA_VISIBLE_DEVICES=2\nsu - user -c '{}'",
    "export CUDA_VISIBLE_DEVICES=2\n./start-it",
    "export CUDA_VISIBLE_DEVICES=2\ntmux new-session -d '{}'",
    "export CUDA_DEVICE_ORDER=FASTEST_FIRST CUDA_VISIBLE_DEVICES=1\n{}",
    # What it is told is in words that nobody sees.
    "{} --trust-remote-code $(more)",
    '{} --enable-metrics "$(one)"',
    '{} "--$(one)"',
    "source $(where)/site.sh\n{}",
    "source ./broken.sh\n{}",
    "{} --num-gpus 4",
    "python serve.py --model a --port 1",
    "python -c 'import serve' --model a --port 1",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_gpus_that_cannot_be_read_are_unknown_and_never_the_first(read, bash, text):
    (bash.folder / "broken.sh").write_text("if true; the")
    found = read(text.replace("{}", f"{SERVE} --model a --port 1"))
    assert [bool(use.why) for use in found.gpu_uses] == [True]


#: What bash gives the server, run with a stub: GPUs and port, which are read so or not at all.
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
def test_gpus_and_port_are_read_as_bash_gives_them_or_not_at_all(read, bash, text):
    whole = text.replace("{}", f"{SERVE} --model a")
    (bash.folder / "serve.sh").write_text(f"{SERVE} --model a --port 30000\n")
    found = read(whole)
    (server,) = bash.run(write(bash, whole))
    given = server.environ.get("CUDA_VISIBLE_DEVICES")
    (use,) = found.gpu_uses
    assert use.why or use.visible == (tuple(given.split(",")) if given is not None else None)
    assert found.port is None or found.port.text == flag(server.argv, "--port")


def test_an_address_at_which_muxd_does_not_ask_is_told(read):
    (problem,) = read(f"{SERVE} --model a --port 1 --host 10.0.0.5").problems
    assert problem.text == "its server listens on 10.0.0.5 alone, and muxd asks on 127.0.0.1; write --host 127.0.0.1"
    for host in ("0.0.0.0", "::", "127.0.0.1", "localhost", "$(hostname)"):
        assert read(f"{SERVE} --model a --port 1 --host {host}").problems == []
    assert read(f"docker run -p 1:1 image {SERVE} --model a --port 1 --host 172.17.0.2").problems == []


SEVERAL = {
    "for i in 0 1; do {} --port $(expr 30000 + $i) & done": "3",
    "for i in $(seq 0 1); do {} --port $((30000 + i)) & done": "3",
    "while read -r port; do {} --port $port & done < ports": "3",
    "seq 2 | while read -r i; do {} --port $i & done": "3",
    "PORT=30000\nwhile read -r gpu; do {} --port $PORT & PORT=$((PORT + 1)); done < gpus": "4",
    "serve() { {} --port $(free_port); }\nserve & serve": "3",
}


@pytest.mark.parametrize(("text", "line"), SEVERAL.items())
def test_where_it_may_start_several_servers_nobody_knows_their_gpus(read, text, line):
    found = read(f"\n\n{text.replace('{}', f'{SERVE} --model a')}\nwait")
    why = "whether it starts one server or several is known only when it runs"
    assert [(use.why, str(use.place)) for use in found.gpu_uses if use.why] == [(why, f"a.sh:{line}")]


ONE = [
    "while true; do {} --port 1; sleep 5; done",
    "for try in 1 2 3; do {} --port 1; done",
    "until ping host; do {} --port 1; done",
    "PORT=$(free_port)\n{} --port $PORT &\nwait",
]


@pytest.mark.parametrize("text", ONE)
def test_a_loop_that_keeps_one_server_up_starts_one(read, text):
    found = read(text.replace("{}", f"CUDA_VISIBLE_DEVICES=1 {SERVE} --model a"))
    assert {use.why for use in found.gpu_uses} == {""}
    assert {use.visible for use in found.gpu_uses} == {("1",)}


HARMLESS = {
    '"$(command -v python)" -m sglang.launch_server --model a --port 1 --tp 2': 2,
    '{} --chat-template $(pick) --log-level "$(pick)" --tp 2': 2,
    'sglang serve "$(pick)" --port 1 --tp 2': 2,
    "source $(conda info --base)/etc/profile.d/conda.sh\nconda activate x\n{} --tp 2": 2,
    "python -m sglang_router.launch_server --model a --port 1 --dp-size 4": 4,
    "sudo -HE {} --tp 2": 2,
    "docker container run -p 1:1 image {} --tp 2": 2,
}


@pytest.mark.parametrize(("text", "count"), HARMLESS.items())
def test_what_decides_no_gpu_may_be_unknown(read, text, count):
    found = read(text.replace("{}", f"{SERVE} --model a --port 1"))
    assert uses(found) == [(None, count, "")]


@pytest.mark.parametrize("flags", [("--enable-memory-saver", ""), ("", "--enable-memory-saver")])
def test_a_server_can_sleep_only_where_either_of_two_ways_lets_it(read, flags):
    ways = [f"{SERVE} --model a --port 1 {way}" for way in flags]
    assert read(f"if nvidia-smi; then {ways[0]}; else {ways[1]}; fi").sleep_level == 3


def test_where_one_of_several_commands_is_the_servers_all_of_their_gpus_are(read):
    text = f"if ping x\nthen export CUDA_VISIBLE_DEVICES=1\n{SERVE} --model a --port 1\n"
    found = read(f"{text}else CUDA_VISIBLE_DEVICES=2 {SERVE} --model a --port 1\nfi")
    assert uses(found) == [(("1",), 1, ""), (("2",), 1, "")]


def test_gpus_of_the_environment_count_unless_the_script_says_otherwise(read):
    serve = f"{SERVE} --model a --port 1"
    (use,) = read(serve, CUDA_VISIBLE_DEVICES="3").gpu_uses
    assert (use.visible, use.given) == (("3",), False)
    (use,) = read(f"export CUDA_VISIBLE_DEVICES=3\n{serve}").gpu_uses
    assert (use.visible, use.given) == (("3",), True)
    (use,) = read(f"unset CUDA_VISIBLE_DEVICES\n{serve}", CUDA_VISIBLE_DEVICES="3").gpu_uses
    assert use.visible is None


NO_SERVERS = [
    "pkill -f sglang.launch_server || true\n{}",
    "pgrep -f sglang.launch_server && pkill -f sglang.launch_server\n{}",
    "ps aux | grep sglang.launch_server | xargs -r kill -9\n{}",
    "{}\npkill -f sglang.launch_server",
    "python -m sglang.launch_server --help > flags\n{}",
]


@pytest.mark.parametrize("text", NO_SERVERS)
def test_what_only_names_a_server_is_none(read, text):
    found = read(text.replace("{}", f"CUDA_VISIBLE_DEVICES=1 {SERVE} --model a --port 31000"))
    assert (found.problems, found.port.text, found.served_names[0].text) == ([], "31000", "a")
    assert uses(found) == [(("1",), 1, "")]


def test_flags_may_be_abbreviated_as_argparse_has_it(read):
    found = read(f"{SERVE} --model-pa a --por 31000 --served-model x --api-k geheim --enable-mem --enable-weights-cpu")
    assert (found.problems, found.port.text, found.api_key, found.sleep_level) == ([], "31000", "geheim", 1)
    assert [fact.text for fact in found.served_names] == ["a", "x"]


def test_without_a_port_a_server_takes_sglangs_own(read):
    assert read(f"{SERVE} --model a").port.text == "30000"
    assert read("sglang serve org/a").port.text == "30000"
    assert read(f"docker run -p 8000:30000 image {SERVE} --model a").port.text == "8000"


def test_the_model_may_stand_behind_serve(read):
    assert [fact.text for fact in read("sglang serve org/a --port 1").served_names] == ["org/a"]


PUBLISHED = {
    "-p 31000:30000": "31000",
    "-p 127.0.0.1:31000:30000/tcp": "31000",
    "-dp 31000:30000 -p 9:9": "31000",
    "--publish=31000:30000": "31000",
    "--network host": "30000",
    "--net=host": "30000",
}


@pytest.mark.parametrize(("options", "port"), PUBLISHED.items())
def test_a_containers_server_is_reached_where_it_is_published(read, options, port):
    found = read(f"docker run {options} image {SERVE} --model a --port 30000")
    assert (found.problems, found.port.text) == ([], port)


def test_what_it_reads_in_is_remembered_unless_it_writes_that_itself(read, bash):
    server = f"{SERVE} --model a --port 1"
    mine, more = str(bash.folder / "script.sh"), str(bash.folder / "more.env")
    assert read(f"source ./more.env\n{server}").digests.keys() == {mine, more}
    assert read(f"source ./more.env 2> /dev/null\n{server}").digests.keys() == {mine, more}
    for line in ("date > more.env", "cat more.tmpl | tee ./more.env", "cp x more.env", "cat <<E >more.env\nX=1\nE"):
        assert read(f"{line}\nsource ./more.env\n{server}").digests.keys() == {mine}


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
    f"PORT=30005\n{SERVE} --model-path a": [
        "2 port: PORT is 30005 (line 1), but the server is started without --port, and takes 30000; make them one"
    ],
    f"docker run image {SERVE} --model-path a": [
        "1 port: the port: the container does not publish its port 30000 (-p NUMBER:30000); "
        + ELSE.format("port")
    ],
    f"docker run -p 30000-30009:30000-30009 image {SERVE} --model-path a": [
        f"1 port: the port: -p 30000-30009:30000-30009 is not followed; {ELSE.format('port')}"
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


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("vllm serve org/a --port 8000", "vllm"),
        ("exec /opt/bin/vllm serve org/a", "vllm"),
        ("python -m vllm.entrypoints.openai.api_server --model org/a --port 8000", "vllm"),
        ("./llama-server --model a.gguf --port 8000", "llama-server"),
        ("ollama serve", "ollama"),
    ],
)
def test_a_server_of_another_kind_is_named_and_not_taken_for_sglang(tmp_path, command, engine):
    path = tmp_path / "a.sh"
    path.write_text(f"#!/bin/bash\n{command}\n")
    script = read_script(path, "a.sh", {}, tmp_path)
    assert any(f"{engine} is not SGLang" in problem.text for problem in script.problems), script.problems
