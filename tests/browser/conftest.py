"""A real browser without a window, and a real muxd with a console and two simulated models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.install import PACKAGE
from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd
from tests.ports import free_port
from tests.ui.console import Console


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--js-flags=--expose-gc"]
        browser = playwright.chromium.launch(executable_path=f"/usr/bin/{PACKAGE}", args=flags)
        yield browser
        browser.close()


@contextmanager
def running(folder: Any, quick: bool = True) -> Iterator[Console]:
    port = free_port()
    models = f'[ui]\nlisten = "127.0.0.1:{port}"\n{two_models()}'
    if not quick:  # a switch can be watched
        models = models.replace("wake_time = 0.05", "wake_time = 1.5").replace("load_time = 0.3", "load_time = 1.5")
    with Muxd(folder, models) as muxd, Console(muxd, port) as console:
        yield console


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with running(tmp_path_factory.mktemp("browser"), quick=False) as console:
        yield console


class Watched:
    """A page, with all that it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Any]:
    """`open_page(url, ...)` opens it in a context of its own and waits for the first row."""
    contexts = []

    def run(url: str, *, row: bool = True, before: Any = None, **options: Any) -> Watched:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        watched = Watched(context.new_page())
        if before is not None:
            before(watched.page)
        watched.page.goto(url)
        if row:
            watched.page.wait_for_selector("tr[data-model]")
        return watched

    yield run
    for context in contexts:
        context.close()


def link(console: Console) -> str:
    """A link that opens the console as an operator."""
    return console.muxd.muxctl("ui").stdout.strip()
