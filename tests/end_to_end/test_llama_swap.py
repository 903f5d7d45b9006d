"""`muxd import llama-swap`, and a muxd that runs what it wrote: two servers that take turns by their own commands."""

import subprocess
import sys
import tomllib

import pytest
import tomli_w

from .muxd import Muxd

SERVER = """\
import http.server, json, os, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        said = {"words": sys.argv[2:], "env": os.environ.get("BIRD"), "body": json.loads(body or "{}")}
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""

MESSAGES = [{"role": "user", "content": "x"}]

CONFIG = """\
healthCheckTimeout: 60
macros:
  server: PYTHON server.py ${PORT}
models:
  "Birds/Owl:7b":
    cmd: |
      # by night
      ${server} --temp ${temp} \\
      --kwargs '{"enable_thinking": false}'
    macros:
      temp: 0.5
    aliases: [owl]
    env: [BIRD=owl]
    useModelName: owl-inside
    filters:
      stripParams: "top_p, top_k"
      setParams: {temperature: 0.7}
    ttl: 60
  hawk:
    cmd: ${server} --id ${MODEL_ID}
"""


@pytest.fixture
def muxd(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("PYTHON", sys.executable))
    argv = [sys.executable, "-m", "muxd", "import", "llama-swap", "config.yaml", "-o", "imported.toml"]
    subprocess.run(argv, cwd=tmp_path, check=True)
    written = tomllib.loads((tmp_path / "imported.toml").read_text())
    assert [model.get("idle") for model in written["models"].values()] == [["1min -> 3"], None]
    assert written.pop("proxy") == {"listen": "127.0.0.1:8080"}
    with Muxd(tmp_path, tomli_w.dumps(written)) as muxd:
        yield muxd


def test_what_was_imported_serves_as_it_did_with_llama_swap(muxd):
    def ask(model):
        body = {"model": model, "messages": MESSAGES, "top_p": 1, "top_k": 2}
        answer = muxd._http.post(f"{muxd.url}/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    for name in ("Birds/Owl:7b", "hawk", "owl", "hawk"):
        said = ask(name)
        if name == "hawk":
            assert (said["words"], said["env"]) == (["--id", "hawk"], None)
            assert said["body"] == {"model": "hawk", "messages": MESSAGES, "top_p": 1, "top_k": 2}
        else:
            assert (said["words"], said["env"]) == (["--temp", "0.5", "--kwargs", '{"enable_thinking": false}'], "owl")
            assert said["body"] == {"model": "owl-inside", "messages": MESSAGES, "temperature": 0.7}
    assert muxd.status("birds-owl-7b")["state"] == "unloaded", "its process has ended, as llama-swap ends it"
