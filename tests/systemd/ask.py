"""Inside the guest: chat completions through the proxy, each on a connection of its own, a line for each answer.

    ask.py MODEL COUNT AT_ONCE

A line is the HTTP status and the model that answered; or "refused", or "cut" where a connection was lost on the way.
"""

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

URL = "http://127.0.0.1:30100/v1/chat/completions"


def ask(model: str) -> str:
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(URL, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return f"{answer.status} {json.load(answer)['model']}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except (OSError, HTTPException) as error:
        return "refused" if "Connection refused" in str(error) else f"cut: {error!r}"


def main() -> None:
    model, count, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with ThreadPoolExecutor(at_once) as threads:
        for answer in [threads.submit(ask, model) for _ in range(count)]:
            print(answer.result(), flush=True)


if __name__ == "__main__":
    main()
