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
]


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
