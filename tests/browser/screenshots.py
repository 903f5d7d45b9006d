"""Pictures of every tab of the console in the midst of a switch, and the one in the README.

    python -m tests.browser.screenshots FOLDER [--every]

FOLDER/console.png is the first tab, 1200 px wide, dark.  With --every it is, in its place, each tab at 360 and 1440 px,
light and dark, as docs/how-to/console.md shows them (make pictures).  The models are simulated, and the page says so.
"""

import io
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.browser.install import PACKAGE
from tests.end_to_end.muxd import Muxd, eventually
from tests.ports import free_port
from tests.ui.console import Console

MODELS = """\
[ui]
listen = "127.0.0.1:{port}"
[defaults]
engine = "simulator"
simulation = {{ load_time = 1.5, sleep_time = 0.4, wake_time = 2.5, token_rate = 90 }}
[models.qwen3-14b]
sleep_level = 1
memory = {{ weights = "28GiB", kv = "20GiB", overhead = "2GiB" }}
[models.llama-8b]
sleep_level = 1
memory = {{ weights = "16GiB", kv = "8GiB", overhead = "2GiB" }}
[models.mistral-24b]
sleep_level = 2
memory = {{ weights = "47GiB", kv = "12GiB", overhead = "2GiB" }}
[models.embed]
sleep_level = 3
memory = {{ weights = "2GiB", kv = "1GiB", overhead = "1GiB" }}
"""
#: Pixels below which a page that goes on and on is cut.
TALLEST = 960

TABS = ("now", "requests", "logs", "events", "try", "keys", "config")
TURNS = (
    "qwen3-14b",
    "llama-8b",
    "embed",
    "qwen3-14b",
    "mistral-24b",
    "llama-8b",
    "qwen3-14b",
    "mistral-24b",
    "qwen3-14b",
)


def main(folder: Path, *, every: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as place,
        Muxd(Path(place), MODELS.format(port=port)) as muxd,
        Console(muxd, port),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=f"/usr/bin/{PACKAGE}", args=["--no-sandbox"])
        for model in TURNS:
            chat(muxd, model, 400)
        if not every:
            take(browser, muxd, folder / "console.png", "now", 1200, "dark")
        else:
            for scheme in ("light", "dark"):
                for width in (360, 1440):
                    for tab in TABS:
                        take(browser, muxd, folder / f"{tab}-{width}-{scheme}.png", tab, width, scheme)
        browser.close()


def chat(muxd: Muxd, model: str, tokens: int) -> None:
    body = {"model": model, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    messages = [{"role": "user", "content": "Tell me of the sea."}]
    with httpx.stream(
        "POST", f"{muxd.url}/v1/chat/completions", json=body | {"messages": messages}, timeout=60
    ) as answer:
        answer.read()


def take(browser: Browser, muxd: Muxd, path: Path, tab: str, width: int, scheme: str) -> None:
    """Take a picture while one model is on its way, and others are in use or wait."""
    awake = muxd.state("mistral-24b") == "ready"
    wanted = "qwen3-14b" if awake else "mistral-24b"
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(muxd.muxctl("ui").stdout.strip())
    page.goto(f"{page.url.partition('#')[0]}#{tab}")
    page.wait_for_selector("main > *")
    asking = [threading.Thread(target=chat, args=(muxd, wanted, 200)) for _ in range(2)]
    for each in asking:
        each.start()
    eventually(lambda: muxd.state(wanted) in ("waking", "starting"), "the switch is under way")
    time.sleep(1.2)
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    picture = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    save(picture, path)
    for each in asking:
        each.join()
    context.close()


def save(picture: bytes, path: Path) -> None:
    """Write a PNG in at most 64 colours, which the page does not need more of: a third of the bytes."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), every="--every" in sys.argv[2:])
