"""A stand-in for the API server of Kubernetes: pods are listed, and watched, by namespace and labels.

It does what clients of the real one rely on: every change has a resourceVersion; a watch begins after the one that its
client names, and has a line of JSON for each change, in chunks; a pod that ends is MODIFIED with a deletionTimestamp
first and DELETED afterwards; who comes back with a version that is forgotten meanwhile is told 410 Expired, and lists
again.  It has no TLS, no keys and no other resources.
"""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Pod = dict[str, Any]


class ApiServer:
    """The pods of a cluster, and the server that tells of them; use it as a context."""

    def __init__(self) -> None:
        self.asked: list[str] = []  # the paths of all requests, "watch " before those that watch
        self._changed = threading.Condition()
        self._pods: dict[str, Pod] = {}
        self._version = 100
        self._oldest = 100  # the version after which all changes are known
        self._changes: list[tuple[int, str, str]] = []  # version, type, the pod as JSON
        self._generation = 0  # of watches: those of an earlier one end
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> "ApiServer":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # The cluster

    def put(self, name: str, ip: str, labels: dict[str, str], *, ready: bool = True, **annotations: str) -> None:
        """Have a pod, or change it."""
        metadata = {"name": name, "namespace": "llm", "uid": name, "labels": labels}
        if annotations:
            metadata["annotations"] = {f"sglang.ai/{key.replace('_', '-')}": text for key, text in annotations.items()}
        status = {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": str(ready)}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        self._change(
            "MODIFIED" if name in self._pods else "ADDED", pod | {"spec": {"containers": [{"name": "server"}]}}
        )

    def terminate(self, name: str) -> None:
        """Give a pod the mark of one that ends."""
        pod = json.loads(json.dumps(self._pods[name]))
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self._change("MODIFIED", pod)

    def delete(self, name: str) -> None:
        self._change("DELETED", self._pods[name])

    def _change(self, kind: str, pod: Pod) -> None:
        with self._changed:
            self._version += 1
            pod["metadata"]["resourceVersion"] = str(self._version)
            self._pods[pod["metadata"]["name"]] = pod
            self._changes.append((self._version, kind, json.dumps(pod)))
            if kind == "DELETED":
                del self._pods[pod["metadata"]["name"]]
            self._changed.notify_all()

    def expire(self) -> None:
        """Forget all changes so far: whoever watches from an earlier version has to list again."""
        with self._changed:
            self._changes.clear()
            self._version += 1
            self._oldest = self._version

    # The server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, folder: Path) -> Path:
        """Write the file by which clients find this server."""
        named = {"cluster": {"server": self.url}, "user": {}, "context": {"cluster": "it", "user": "it"}}
        lists = {f"{kind}s": [{"name": "it", kind: table}] for kind, table in named.items()}
        file = folder / "kubeconfig.yaml"
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "it", **lists}))
        return file

    def start(self) -> None:
        """Answer, at the port of before if there was one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: nobody is answered, and every watch ends."""
        if (server := self._server) is not None:
            self._server = None
            server.shutdown()
            server.server_close()
            self.end_watches()

    def end_watches(self) -> None:
        """End every watch as the real one does after some minutes: its client asks again from where it was."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 0.5  # s for a next request, so that a stopped server has no connection left
            wbufsize = 0

            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                if api._server is not self.server:  # stopped, with this connection still open
                    self.close_connection = True
                    return
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                watches = query.get("watch") in ("1", "true")
                generation = api._generation  # before the request is told of: it can be ended from then on
                api.asked.append(f"{'watch ' * watches}{parts.path}")
                self.send_response(200 if parts.path in ("/api/v1/pods", "/api/v1/namespaces/llm/pods") else 404)
                self.send_header("Content-Type", "application/json")
                if watches:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for line in api._lines(int(query.get("resourceVersion", "0")), query, generation):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    body = api._list(query)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the client has gone

        return Handler

    def _list(self, query: dict[str, str]) -> bytes:
        with self._changed:
            pods = [pod for pod in self._pods.values() if _matches(pod, query)]
            return json.dumps(
                {
                    "kind": "PodList",
                    "apiVersion": "v1",
                    "metadata": {"resourceVersion": str(self._version)},
                    "items": pods,
                }
            ).encode()

    def _has_news(self, since: int, generation: int) -> bool:
        return since != self._version or generation != self._generation

    def _lines(self, since: int, query: dict[str, str], generation: int) -> Iterator[bytes]:
        """Yield what a watch has to tell, until all watches are ended."""
        while generation == self._generation:
            with self._changed:
                self._changed.wait_for(partial(self._has_news, since, generation))
                if since < self._oldest:
                    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired"}
                    status |= {"code": 410, "message": f"too old resource version: {since} ({self._oldest})"}
                    lines, ends = [{"type": "ERROR", "object": status}], True
                else:
                    news = [(kind, json.loads(pod)) for at, kind, pod in self._changes if at > since]
                    lines = [{"type": kind, "object": pod} for kind, pod in news if _matches(pod, query)]
                    since, ends = self._version, False
            for line in lines:
                yield json.dumps(line).encode() + b"\n"
            if ends:
                return


def _matches(pod: Pod, query: dict[str, str]) -> bool:
    labels = pod["metadata"]["labels"]
    wanted = [each.split("=", 1) for each in query.get("labelSelector", "").split(",") if each]
    return all(labels.get(name) == value for name, value in wanted)
