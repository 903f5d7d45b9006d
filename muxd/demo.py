"""The demo: two simulated models on one pretend GPU, and a client that asks them in turn.

`muxd start --demo` runs the models until it is stopped.  `make demo` (`python -m muxd.demo`)
also sends requests to both through the proxy, prints muxd's output, stops everything, and
fails if anything went wrong.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .locks import STATE_LOCK, is_held

CONFIG = """\
# Two simulated models that do not fit together on one pretend 80 GiB GPU.
[muxd]
socket = "{folder}/muxd.sock"
state_dir = "{folder}/state"
log_dir = "{folder}/logs"
simulated_gpu_memory = "80GiB"
log_level = "warning"

[proxy]
listen = "127.0.0.1:{port}"

[defaults]
engine = "simulator"

[models.alpha]
served_names = ["demo/alpha"]
sleep_level = 1
memory = {{ weights = "28GiB", kv = "20GiB", overhead = "2GiB" }}
simulation = {{ load_time = "3s", sleep_time = "200ms", wake_time = "600ms", release_lag = "100ms" }}

[models.beta]
served_names = ["demo/beta"]
sleep_level = 2
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "2GiB" }}
simulation = {{ load_time = "4s", sleep_time = "200ms", wake_time = "900ms", release_lag = "100ms" }}
"""

#: Seconds that a request of the demo may take, a model's load included.
PATIENCE = 40.0

#: The port that the proxy listens at by default.
PORT = 30100

#: The prefix of the demo's folder among the temporary files, by which muxctl finds the folder.
FOLDER = "muxd-demo-"


def write_demo_config(folder: Path, port: int = PORT, ui_port: int | None = None) -> Path:
    """Write the configuration, with a console where it is given a port."""
    path = folder / "muxd.toml"
    console = f'\n[ui]\nlisten = "127.0.0.1:{ui_port}"\n' if ui_port is not None else ""
    path.write_text(CONFIG.format(folder=folder, port=port) + console)
    return path


@contextmanager
def demo_folder() -> Iterator[Path]:
    """Yield a folder for one demo.  It is removed in the end, but kept and named where an error leaves logs in it."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER))
    try:
        yield folder
    except BaseException as error:
        is_meant = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not error.code)
        if not is_meant and any(folder.glob("logs/*")):
            print(f"the demo failed: its configuration and its logs are kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def killed_demo(port: int) -> Path | None:
    """Return the configuration of this user's demo at this port that was killed, and so has left its processes."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}*/muxd.toml"):
        with suppress(OSError):
            is_own = path.stat().st_uid == os.geteuid() and f'"127.0.0.1:{port}"' in path.read_text()
            if is_own and not is_held(path.parent / "state" / STATE_LOCK):
                return path
    return None


def open_console(control: Path, ui_port: int) -> None:
    """Open the console in this desktop's browser, once it answers, and print the link; with no desktop only that.

    A thread does it beside muxd, and nothing depends on it.
    """

    def look() -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_listening(ui_port):
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        has_desktop = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
        argv = [sys.executable, "-m", "muxctl", "--socket", str(control), "ui", *(["--open"] if has_desktop else [])]
        link = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        ).stdout.strip()
        if link:
            print(f"the console, good once and for five minutes: {link}", file=sys.stderr, flush=True)

    threading.Thread(target=look, name="console", daemon=True).start()


def main() -> None:
    with demo_folder() as folder:
        port = free_port()
        config = write_demo_config(folder, port)
        say("SIMULATED: two pretend models take turns on one pretend GPU; processes, switches and HTTP are real.")
        say(f"$ muxd start --config {config}")
        daemon = subprocess.Popen([sys.executable, "-m", "muxd", "start", "--config", str(config)])
        try:
            _until_listening(port, daemon)
            _tour(f"http://127.0.0.1:{port}", folder / "muxd.sock")
        finally:
            say("stopping muxd")
            daemon.terminate()
            status = daemon.wait(PATIENCE)
        if status != 0:
            sys.exit(f"muxd ended with status {status}")
        say("everything worked")
        say(f"a console to look at it in your browser: {Path(sys.executable).with_name('muxd')} start --demo --ui")


def _tour(proxy: str, control: Path) -> None:
    for model, stream in (("demo/alpha", False), ("demo/beta", False), ("demo/alpha", True), ("demo/beta", True)):
        began = time.monotonic()
        text = ask(proxy, model, stream=stream)
        how = "streamed" if stream else "whole"
        say(f"{model} answered, {how}, after {time.monotonic() - began:.1f} s: {text!r}")
        assert text, f"{model} answered nothing"
        muxctl(control, "status")
    muxctl(control, "switch", "alpha")
    muxctl(control, "status", "alpha")


def ask(proxy: str, model: str, *, stream: bool) -> str:
    """Return the text of one chat completion, asked through the proxy with the standard library alone."""
    say(f'$ curl {proxy}/v1/chat/completions -d \'{{"model": "{model}", "stream": {json.dumps(stream)}, ...}}\'')
    messages = [{"role": "user", "content": "Who are you?"}]
    body = {"model": model, "stream": stream, "max_tokens": 12, "messages": messages}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{proxy}/v1/chat/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        if not stream:
            return str(json.load(answer)["choices"][0]["message"]["content"])
        events = [line[6:] for line in answer if line.startswith(b"data: ")]
    assert events.pop().strip() == b"[DONE]", "the stream was cut"
    return "".join(_delta(json.loads(event)) for event in events)


def _delta(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def muxctl(control: Path, *words: str) -> None:
    say(f"$ muxctl {' '.join(words)}")
    subprocess.run([sys.executable, "-m", "muxctl", "--socket", str(control), *words], check=True)


def say(text: str) -> None:
    print(f"\n{text}" if text.startswith("$") else text, flush=True)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 at which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Say whether a process listens at this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until_listening(port: int, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_listening(port):
            return
        if daemon.poll() is not None:
            sys.exit(f"muxd ended with status {daemon.returncode} before it was ready")
        time.sleep(0.05)
    sys.exit(f"muxd was not ready within {PATIENCE:.0f} s")


if __name__ == "__main__":
    main()
