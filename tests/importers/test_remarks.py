"""What a script does that muxd can run, and that is told nevertheless."""

import pytest

from muxd.importers.scripts import read_script

from .bash import write

SERVE = "python -m sglang.launch_server --model a --port 1"


@pytest.fixture
def told(bash):
    def told(text):
        return read_script(write(bash, text.replace("{}", SERVE)), "a.sh", bash.environ, bash.folder).remarks

    return told


KILLS = {
    "pkill -f sglang.launch_server || true\nexec {}": 1,
    "\npgrep -f sglang && pkill -9 -f sglang\n{}": 2,
    "killall -q python3\n{}": 1,
    "trap 'pkill -f launch_server' EXIT\n{}": 1,
    "clean() {\n  ps aux | grep sglang | awk '{print $2}' | xargs -r kill -9\n}\n{}": 2,
    "ps aux \\\n | grep sglang.launch_server \\\n | xargs kill\n{}": 2,
    "kill $(pgrep -f sglang)\n{}": 1,
    "nvidia-smi --query-compute-apps=pid --format=csv,noheader | xargs kill\n{}": 1,
    "fuser -k /dev/nvidia0\n{}": 1,
    "ps aux | awk '/sglang/ {print $2}' | xargs kill -9\n{}": 1,
    "kill -9 $(ps aux | grep '[s]glang' | awk '{print $2}')\n{}": 1,
    'pkill -f "launch_serve[r]"\n{}': 1,
    "pkill -9 -f model-path\n{}": 1,
    "kill $(pidof python3)\n{}": 1,
    "kill `pidof python3`\n{}": 1,
    "skill python3\n{}": 1,
    "fuser -v /dev/nvidia0 -k\n{}": 1,
    "lsof -t /dev/nvidia* | xargs kill\n{}": 1,
    "docker rm -f $(docker ps -aq)\n{}": 1,
    "docker ps -q | xargs -r docker stop\n{}": 1,
    "ray stop --force\n{}": 1,
    "kill -9 -1\n{}": 1,
    "pkill -9 -u $USER; {}": 1,
    "kill -s KILL -- -1; {}": 1,
    'PIDS=$(pgrep -f sglang)\nif [ -n "$PIDS" ]; then\n  kill $PIDS\nfi\n{}': 3,
    "for p in $(pgrep -f sglang); do\n  kill -9 $p\ndone\n{}": 2,
    "pgrep -f launch_server | while read -r p; do\n  kill $p\ndone\n{}": 2,
}


@pytest.mark.parametrize(("text", "line"), KILLS.items())
def test_kills_by_name_are_told_with_their_line(told, text, line):
    (remark,) = told(text)
    assert remark == (
        f"a.sh:{line} ends all processes of that kind on this host, the servers of other models among them; "
        "take it out: muxd ends what its script has started"
    )


HARMLESS = [
    "{} &\nPID=$!\ntrap 'kill $PID' TERM\nwait $PID",
    "# pkill -f sglang\n{}",
    "echo stop it: pkill -f sglang\n{}",
    "pkill -f my_watcher; {}",
    "if pgrep -f sglang; then exit 1; fi\n{}",
    "fuser -k 1/tcp; {}",
    "lsof -ti:1 | xargs kill; {}",
    "fuser -k $PORT/tcp; {}",
    "{} &\nSERVER_PID=$!\ntrap 'kill $!' EXIT\nkill -0 $SERVER_PID && kill $SERVER_PID\nwait",
    "kill -1 $PPID; {}",
    "pkill -u $USER -f my_watcher; {}",
    "kill -TERM -1234; {}",
    "pgrep -f sglang > /dev/null && kill $SERVER_PID\n{}",
    "trap 'pkill -P $$ -f python' EXIT\n{}",
    "kill $(cat server.pid)\n{}",
    "docker rm -f my-server; {}",
    "docker rm -f $(docker ps -aq --filter name=mine); {}",
    "kill $(pgrep -f my_watcher)\n{}",
    "ps aux | grep '[[:space:]]nginx' | xargs kill\n{}",
    "ps aux | grep nginx | xargs kill\n{}",
    "ps -p $PID | grep sglang; kill $PID\n{}",
]


@pytest.mark.parametrize("line", ["fuser -k 30000/tcp", "lsof -ti:30000 | xargs kill -9", "kill $(lsof -t -i :30000)"])
def test_a_kill_of_whoever_has_another_port_is_told(told, line):
    (remark,) = told(f"{line}\n{{}}")
    assert remark.startswith("a.sh:1 ends whoever has port 30000, which may be another model's server; take it out")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_ends_no_server_is_not_told(told, text):
    assert told(text) == ()


LEFT = {
    "nohup {} > log 2>&1 &\necho $! > server.pid": "in the background",
    "setsid nohup {} < /dev/null & disown": "in the background",
    "{} 2>&1 | tee log &": "in the background",
    "( {} & )\nexit 0": "in the background",
    "start() { {} & }\nstart": "in the background",
    "docker run -d --gpus all -p 1:1 image {}": "its container running",
    "podman run -itd -p 1:1 image {}": "its container running",
    "docker run --detach -p 1:1 image {}": "its container running",
    "MODEL_NAME=a PORT=1\ndocker compose up -d": "its container running",
    "tmux new-session -d -s s '{}'": "to tmux",
    "screen -dmS s {}": "to screen",
    "systemd-run --user {}": "to systemd-run",
    "sbatch job.sh": "to sbatch",
    "MODEL_NAME=a PORT=1\nsystemctl start sglang-a": "to systemctl",
}


@pytest.mark.parametrize(("text", "how"), LEFT.items())
def test_a_server_that_is_left_alone_is_told(told, text, how):
    (remark,) = told(text)
    assert remark.startswith("a.sh:")
    assert f" leaves its server {how}" in remark or f" leaves {how}" in remark


STAYS = [
    "{}",
    "{} &\nwait",
    "{} &\nwait -n",
    "{} &\nwhile kill -0 $!; do sleep 1; done",
    "{} &\ntail -f log",
    "sleep 1 &\n{}",
    "docker run -p 1:1 image {} -d",
    "docker run -d --name a -p 1:1 image {}\ndocker logs -f a",
    "systemd-run --user --scope {}",
    "docker run --rm -it -p 1:1 image {}",
]


@pytest.mark.parametrize("text", STAYS)
def test_a_script_that_stays_with_its_server_is_not_told(told, text):
    assert told(text) == ()


@pytest.mark.parametrize("text", ["ssh gpu2 '{}'", "cd /tmp\nkubectl apply -f sglang.yaml"])
def test_a_server_on_another_machine_is_told(told, text):
    (remark,) = told(text)
    assert "and muxd cannot follow a server on another machine; give a script that starts it here" in remark


def test_what_another_machine_is_asked_beside_a_server_is_not_told(told):
    assert told("ssh gpu2 date\n{}") == ()
    assert told("ssh gpu2 date\n./serve.sh") == ()


@pytest.mark.parametrize(
    ("command", "program"), [("python3 server.py --port 3", "server.py"), ("my-server -p 3", "my-server")]
)
def test_a_program_in_which_no_sglang_is_to_be_seen_is_told(told, command, program):
    (remark,) = told(f"MODEL_NAME=a\nPORT=3\nexec {command}")
    assert remark.startswith(
        f"a.sh:3 starts {program}, and no SGLang is to be seen in it; muxd runs SGLang's servers: "
    )


@pytest.mark.parametrize(
    "command", ["./serve.sh", "bash serve.sh", "docker compose up", "sglang-wrapper", "uv run serve", "$CMD"]
)
def test_what_may_start_sglang_unseen_is_not_told(told, command):
    assert told(f"MODEL_NAME=a\nPORT=3\nexec {command}") == ()
