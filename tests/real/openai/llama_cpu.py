"""Two models of llama.cpp's own server as muxd.toml has them."""

from pathlib import Path

SERVER = Path(__file__).with_name("llama_server.py")

#: Stands for what cuda-checkpoint does on a card: the whole tree is stopped, and goes on where it was.
FREEZE = '{ command = ["sh", "-c", "kill -STOP {pids}"] }'
THAW = '{ command = ["kill", "-CONT", "{pids}"] }, { get = "/v1/models" }'
STEPS = f"sleep = [{FREEZE}]\nwake = [{THAW}]"


def command(home: Path, *before: str, port: str = "{port}") -> str:
    """The key `command`; `before` are words that come before the server's own."""
    words = [*before, str(home / "venv/bin/python"), str(SERVER), "--model", "{model_path}"]
    return f"command = {[*words, '--alias', 'llama-of-{model}', '--port', port]}"


def table(home: Path, name: str, *keys: str) -> str:
    lines = (f"[models.{name}]", f'model_path = "{home}/models/{name}.gguf"', f'served_names = ["tests/{name}"]', *keys)
    return "\n".join((*lines, ""))
