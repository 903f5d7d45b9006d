"""`muxd start --llmux`: servers that nobody starts but the hooks of llmux 2, outside of muxd's own processes."""

import json
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.ports import free_port

from .muxd import eventually
from .scripts import Scripts

MODEL = """\
  Birds/{name}:
    port: {port}
    wake: |
      echo "$LLMUX_MODEL" > {folder}/{name}.up
      until test -e {folder}/{name}.listens; do sleep 0.02; done
    sleep: rm {folder}/{name}.up; while test -e {folder}/{name}.listens; do sleep 0.02; done
    alive: curl -sf http://localhost:{port}/up
"""


@contextmanager
def outside(folder, name, port):
    """A host of one server, as a container engine is: it runs while there is a file NAME.up."""
    ended = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            said = json.dumps({"from": name, "asked": json.loads(body or b"{}").get("model")}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    def host():
        server = None
        while not ended.wait(0.01):
            is_wanted = (folder / f"{name}.up").exists()
            if is_wanted and server is None:
                server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
                threading.Thread(target=server.serve_forever, args=(0.01,)).start()
                (folder / f"{name}.listens").touch()
            elif not is_wanted and server is not None:
                server.shutdown()
                server.server_close()
                server = None
                (folder / f"{name}.listens").unlink()

    thread = threading.Thread(target=host)
    thread.start()
    try:
        yield
    finally:
        eventually(lambda: not (folder / f"{name}.listens").exists(), f"the sleep hook of {name} ran at the end")
        ended.set()
        thread.join()


def test_two_models_take_turns_by_their_hooks(tmp_path):
    ports = {"owl": free_port(), "hawk": free_port()}
    models = "".join(MODEL.format(name=name, port=port, folder=tmp_path) for name, port in ports.items())
    (tmp_path / "config.yaml").write_text(f"models:\n{models}\nport: 3000\n")
    with ExitStack() as stack:
        for name, port in ports.items():
            stack.enter_context(outside(tmp_path, name, port))
        muxd = stack.enter_context(Scripts(tmp_path, "--llmux", "config.yaml"))
        for name in ("owl", "hawk", "owl", "hawk"):
            body = {"model": f"Birds/{name}", "messages": [{"role": "user", "content": "x"}]}
            answer = muxd._http.post(f"{muxd.url}/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()) == (200, {"from": name, "asked": f"Birds/{name}"})
            assert [other for other in ports if (tmp_path / f"{other}.listens").exists()] == [name]
            assert (tmp_path / f"{name}.up").read_text() == f"Birds/{name}\n"
        assert muxd.status("birds-owl")["state"] == "asleep"
        assert muxd.status("birds-hawk")["restarts"] == 0
