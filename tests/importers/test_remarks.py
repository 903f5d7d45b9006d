"""What a script does that muxd can run, and that is told nevertheless.  Nothing of it is ever run, not even here."""

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


#: What becomes of these servers is seen once they run: tests/workers/test_process_of_script.py has what is said then.
LEFT = [
    "nohup {} > log 2>&1 &\necho $! > server.pid",
    "docker run -d --gpus all -p 1:1 image {}",
    "tmux new-session -d -s s '{}'",
    "systemd-run --user {}",
    "ssh gpu2 '{}'",
    "MODEL_NAME=a\nPORT=3\nexec python3 server.py --port 3",
]


@pytest.mark.parametrize("text", LEFT)
def test_where_a_server_ends_up_is_not_guessed(told, text):
    assert told(text) == ()
