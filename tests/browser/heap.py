"""How much memory the page takes over a long time: 50 models, 10 events and 4 changes of the status a second.

    python -m tests.browser.heap [MINUTES]

Prints Chromium's own figure after a collection, for each minute; exits 1 if the last is more than 2 MiB above the first
in which the page keeps as many events as it ever does.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import running
from tests.browser.install import PACKAGE
from tests.browser.test_page import MODEL, snapshot, told

#: Events after which the page keeps no more of them, and MiB that its memory may vary by.
FULL, ALLOWED = 2000, 2.0

TELL = """([model, status]) => {
  let told = 0;
  setInterval(() => {
    told += 1;
    window.muxdTell("event", {id: told, time: 1000 + told / 10, type: "state", model: `model-${told % 50}`,
      from: "ready", to: "asleep", reason: `for the ${told}. time`});
    if (told % 5 < 2) window.muxdTell("status", {...status, at: 1000 + told / 10, uptime_s: told / 10, models:
      Array.from({length: 50}, (_, i) => ({...model, name: `model-${i}`, in_flight: (told + i) % 7,
        state: (told + i) % 9 ? "ready" : "asleep", tokens_per_s: (told * i) % 300}))});
  }, 100);
}"""


def main(minutes: int) -> int:
    models = [MODEL | {"name": f"model-{number}"} for number in range(50)]
    kind, data = snapshot(*models)
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as console, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=f"/usr/bin/{PACKAGE}", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        told((kind, data))(page)
        page.goto(f"{console.url}/ui/")
        page.wait_for_selector("tr[data-model]")
        devtools = page.context.new_cdp_session(page)
        page.evaluate(TELL, [MODEL, data["status"]])
        for minute in itertools.count(1):
            page.wait_for_timeout(60_000)
            devtools.send("HeapProfiler.collectGarbage")
            used = devtools.send("Runtime.getHeapUsage")["usedSize"] / (1 << 20)
            print(json.dumps({"minute": minute, "heap_mib": round(used, 2)}), flush=True)
            if minute * 600 > FULL:
                found.append(used)
            if minute >= minutes:
                break
        browser.close()
    return int(not found or found[-1] - found[0] > ALLOWED)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
