"""Inside the guest: chat completions through the proxy, each on a connection of its own, a line for each answer.

    ask.py MODEL COUNT AT_ONCE [TOKENS [stream]]

A line is the HTTP status and the model that answered with so many tokens; or "refused", or "cut" where a connection was
lost on the way.  The API key is $API_KEY.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any

URL = "http://127.0.0.1:30100/v1/chat/completions"


def ask(model: str, tokens: int, *, stream: bool) -> str:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": model, "max_tokens": tokens, "ignore_eos": True, "messages": messages}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"}
    request = urllib.request.Request(URL, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = last_event(answer) if stream else json.load(answer)
            whole = said.get("usage", {}).get("completion_tokens") == tokens
            return f"{answer.status} {said['model']}" if whole else f"cut: {said}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except (OSError, HTTPException) as error:
        return "refused" if "Connection refused" in str(error) else f"cut: {error!r}"


def last_event(answer: HTTPResponse) -> Any:
    """The one before [DONE], which tells the usage; of a stream that was cut, its last."""
    lines = [line.removeprefix(b"data: ").strip() for line in answer if line.startswith(b"data: ")]
    return json.loads(next((line for line in reversed(lines) if line != b"[DONE]"), "{}"))


def main() -> None:
    model, count, at_once, *more = sys.argv[1:]
    tokens, stream = int(more[0]) if more else 4, more[1:] == ["stream"]
    with ThreadPoolExecutor(int(at_once)) as threads:
        for answer in [threads.submit(ask, model, tokens, stream=stream) for _ in range(int(count))]:
            print(answer.result(), flush=True)


if __name__ == "__main__":
    main()
