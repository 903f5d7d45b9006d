"""The console in a real browser."""

import json
import time
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from muxd.core.states import WorkerState
from tests.browser.conftest import link, running
from tests.end_to_end.test_history import answered

MODEL = {
    "name": "qwen", "served_names": [], "engine": "simulator", "state": "ready", "since_s": 3.0, "level": None,
    "gpus": [0], "in_flight": 0, "waiting": 0, "oldest_wait_s": None, "restarts": 0, "pinned": False,
    "stopped_by_operator": False, "memory": {"declared": 40 << 30, "awake": 40 << 30, "asleep": 2 << 30},
    "reason": None, "impossible": None, "next": None, "eta_s": None, "last_exit": None, "url": None, "pid": 1,
    "max_model_len": None,
}  # fmt: skip
STATUS = {
    "version": "0", "pid": 1, "uptime_s": 5.0, "at": 1000.0, "simulated": True, "switch": None, "host_memory": None,
    "proxy": {"listen": "127.0.0.1:1", "state": "running"}, "door": {"open_to": "host", "keys": 0},
    "gpus": [{"index": 0, "name": "card", "total": 80 << 30, "used": 60 << 30, "strangers": None}],
    "config": None, "config_written": False, "log_dir": "/x",
}  # fmt: skip


def told(*messages):
    """Has the page's stream say these (kind, data), and end."""
    body = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in messages)

    def before(page):
        page.route("**/ui/api/live", lambda route: route.fulfill(content_type="text/event-stream", body=body))

    return before


def snapshot(*models, events=(), **more):
    return "snapshot", {"status": STATUS | {"models": list(models)} | more, "events": list(events)}


def row(page, model):
    return page.locator(f'tr[data-model="{model}"]')


def tab(page, name):
    page.get_by_role("link", name=name, exact=True).click()


def test_the_page_asks_its_own_host_alone_and_complains_of_nothing(console, open_page):
    seen = open_page(link(console))
    for name in ("Requests", "Logs", "Events", "Try it", "Keys", "Config", "Now"):
        tab(seen.page, name)
        seen.page.wait_for_timeout(150)
    assert {urlsplit(url).netloc for url in seen.asked} == {urlsplit(console.url).netloc}
    assert seen.complaints == []


@pytest.mark.parametrize("state", list(WorkerState))
def test_every_state_has_a_word_and_a_sign_of_its_own(console, open_page, state):
    model = MODEL | {"state": str(state), "level": 2 if state is WorkerState.ASLEEP else None}
    page = open_page(f"{console.url}/ui/", before=told(snapshot(model))).page
    cell = row(page, "qwen").locator("td").first
    words = cell.inner_text().split(maxsplit=1)
    assert len(words) == 2
    assert words[0] != "?"
    assert "_" not in words[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_nobody_is_shut_out(console, open_page, scheme, width):
    """By axe-core: nothing serious, at both widths and in both colours; and the page is no wider than the screen."""
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = open_page(link(console), **options).page
    for name in ("Now", "Requests", "Events", "Try it", "Keys", "Config", "Logs"):
        tab(page, name)
        page.wait_for_timeout(200)
        found = Axe().run(page).response["violations"]
        grave = [
            each["id"] + ": " + each["nodes"][0]["html"] for each in found if each["impact"] in ("serious", "critical")
        ]
        assert grave == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_a_model_is_switched_by_its_button_and_the_switch_is_seen(console, open_page):
    console.muxd.ask("alpha")
    page = open_page(link(console)).page
    row(page, "beta").get_by_role("button", name="switch").click()
    expect(page.get_by_label("Switch under way")).to_contain_text("alpha → beta")
    expect(row(page, "beta")).to_have_attribute("data-state", "ready", timeout=20_000)
    expect(row(page, "alpha")).to_have_attribute("data-state", "asleep")
    assert console.muxd.state("beta") == "ready"
    expect(page.locator(".lane", has_text="beta").locator("i.lane-ready").first).to_be_visible()


def test_the_keyboard_alone_will_do(console, open_page):
    console.muxd.ask("alpha")
    page = open_page(link(console)).page
    row(page, "alpha").get_by_role("button", name="sleep").focus()
    page.keyboard.press("Enter")
    expect(row(page, "alpha")).to_have_attribute("data-state", "asleep", timeout=20_000)


def test_stop_and_restart_ask_first_and_name_what_they_cut(console, open_page):
    console.muxd.ask("alpha")
    page = open_page(link(console)).page
    row(page, "alpha").get_by_role("button", name="stop").click()
    expect(row(page, "alpha").get_by_role("alertdialog")).to_contain_text("nobody uses alpha now")
    row(page, "alpha").get_by_role("button", name="no").click()
    assert console.muxd.state("alpha") == "ready"
    row(page, "alpha").get_by_role("button", name="restart").click()
    row(page, "alpha").get_by_role("alertdialog").get_by_role("button", name="restart").click()
    expect(page.get_by_role("status")).to_contain_text("alpha: restart was ordered")
    console.muxd.until_state("alpha", "ready")


def test_a_refused_order_is_told_in_muxds_own_words(console, open_page):
    page = open_page(link(console)).page
    text = "the GPU is lent out: try again later"
    page.route("**/ui/api/models/alpha/switch", lambda route: route.fulfill(
        status=503, content_type="application/json", body=json.dumps({"error": {"message": text}})))  # fmt: skip
    row(page, "alpha").get_by_role("button", name="switch").click()
    expect(page.get_by_role("status")).to_contain_text(text)


def test_muxd_may_go_and_come_back(tmp_path, open_page):
    with running(tmp_path) as console:
        page = open_page(f"{console.url}/ui/").page
        console.muxd.kill()
        expect(page.get_by_role("alert")).to_contain_text("muxd is not running", timeout=20_000)
        console.muxd.start_again()
        expect(page.get_by_role("alert")).to_have_count(0, timeout=30_000)
        tab(page, "Events")
        expect(page.locator("tr", has_text="muxd_started").first).to_be_visible()
        ids = page.locator(".events tbody tr").all_inner_texts()
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("moved_since", [False, True])
def test_who_lost_the_gpu_while_muxd_was_gone_has_it_no_longer_in_its_lane(tmp_path, console, open_page, moved_since):
    """It was ready until muxd died, 30 s ago of the 60 s that are drawn, and no event told its end."""
    now = time.time()
    events = [
        {"id": 1, "type": "state", "model": "qwen", "from": "starting", "to": "ready", "time": now - 300},
        {"id": 2, "type": "muxd_started", "time": now - 30},
    ]
    if moved_since:
        moved = {"id": 3, "type": "state", "model": "qwen", "from": "unloaded", "to": "standby", "time": now - 5}
        events.append(moved)
    model = MODEL | {"state": "standby" if moved_since else "unloaded", "since_s": 5.0 if moved_since else 30.0}
    seen = open_page(f"{console.url}/ui/", before=told(snapshot(model, events=events, at=now, uptime_s=30.0)))
    lane = seen.page.locator(".lane", has_text="qwen")
    whole, ready = lane.locator("div").bounding_box(), lane.locator("i").bounding_box()
    assert lane.locator("i").count() == 1
    assert ready["x"] == pytest.approx(whole["x"], abs=2)
    assert 0 < ready["width"] < 0.6 * whole["width"]


def test_a_guest_has_no_buttons_and_a_key_brings_them(tmp_path, open_page):
    with running(tmp_path) as console:
        assert console.muxd.muxctl("keys", "add", "vic", "--view", "--yes").returncode == 0
        secret = console.muxd.muxctl("keys", "add", "ann", "--admin", "--yes").stdout.strip()
        page = open_page(f"{console.url}/ui/").page
        expect(row(page, "alpha").get_by_role("button", name="switch")).to_have_count(0)
        page.get_by_role("button", name="log in to operate").click()
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Log in", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("no key of this muxd")
        page.get_by_label("API key").fill(secret)
        expect(page.get_by_role("button", name="Log in", exact=True)).to_be_enabled()

        def logged_in():
            page.get_by_role("button", name="Log in", exact=True).click()
            page.wait_for_timeout(500)
            return row(page, "alpha").get_by_role("button", name="switch").count() == 1

        assert any(logged_in() for _ in range(20))  # the console looks for new keys every few seconds


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "'\"><script>alert(1)</script>", "${alert(1)}"])
def test_what_looks_like_a_script_is_text(console, open_page, name):
    event = {"id": 1, "time": 1000.0, "type": "state", "model": name, "from": "ready", "to": "asleep", "reason": name}
    before = told(snapshot(MODEL | {"name": name, "state": "failed", "reason": name}, events=[event]))
    seen = open_page(f"{console.url}/ui/", before=before)
    seen.page.on("dialog", lambda dialog: seen.complaints.append("a dialog"))
    expect(seen.page.locator("tr[data-model]").get_by_role("button", name=name, exact=True)).to_be_visible()
    tab(seen.page, "Events")
    expect(seen.page.locator(".events tbody tr").first).to_contain_text(name)
    assert not [text for text in seen.complaints if "dialog" in text or "refused to" in text.lower()]


def test_a_chat_is_streamed(console, open_page):
    page = open_page(link(console)).page
    tab(page, "Try it")
    page.get_by_label("model", exact=True).select_option("alpha")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".try small")).to_contain_text("first token after", timeout=20_000)
    assert page.locator(".answer").inner_text().strip()


def test_logs_are_followed_and_searched(console, open_page):
    console.muxd.ask("alpha")
    page = open_page(link(console)).page
    tab(page, "Logs")
    page.get_by_label("of", exact=True).select_option("alpha")
    expect(page.locator("pre.log")).to_contain_text("alpha", timeout=10_000)
    page.get_by_label("Search").fill("no such line in it")
    expect(page.locator("pre.log")).to_have_text("nothing yet")


def test_a_reload_is_shown_before_it_is_done(tmp_path, open_page):
    with running(tmp_path) as console:
        page = open_page(link(console)).page
        config = console.muxd.config
        config.write_text(config.read_text().replace("[models.beta]", "[models.beta]\npreload = true"))
        tab(page, "Config")
        expect(page.get_by_role("button", name="Reload", exact=True)).to_be_disabled()
        page.get_by_role("button", name="What would a reload change?").click()
        expect(page.locator("main")).to_contain_text("beta")
        page.get_by_role("button", name="Reload", exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("was taken over")


#: Keeps every plot that the page makes where a test finds it.
WATCH_PLOTS = """(() => {
  let made;
  window.plots = [];
  Object.defineProperty(window, "uPlot", {
    configurable: true,
    get: () => made,
    set: (Plot) => { made = new Proxy(Plot, {construct: (of, words) => plots[plots.push(new of(...words)) - 1]}); },
  });
})()"""
#: The sum of all that is drawn in the plot of tokens/s; each of its points is of one second.
DRAWN = """() => {
  const figure = [...document.querySelectorAll("figure")].find((each) => each.textContent.startsWith("tokens/s"));
  const plot = plots.findLast((each) => figure && figure.contains(each.root));
  return plot ? plot.data.slice(1).flat().reduce((sum, value) => sum + (value || 0), 0) : 0;
}"""


def test_tokens_that_are_drawn_are_those_that_clients_got_over_sleeps_and_wakes(tmp_path, open_page):
    with running(tmp_path) as console:
        page = open_page(link(console), before=lambda page: page.add_init_script(WATCH_PLOTS)).page
        turns = ("alpha", "beta", "alpha", "beta", "alpha")
        got = sum(answered(console.muxd, model, with_usage=number % 2 == 0) for number, model in enumerate(turns))
        for _ in range(100):
            if page.evaluate(DRAWN) >= 0.98 * got:
                break
            page.wait_for_timeout(300)
        for _ in range(2):  # nor does more come, as an engine that woke tells its old count again
            page.wait_for_timeout(2500)
            assert page.evaluate(DRAWN) == pytest.approx(got, rel=0.02)


def test_fifty_models_and_a_storm_of_events_leave_the_heap_flat(console, open_page):
    """By Chromium's own figure after a collection: 4000 events cost less than 400 of them cost twice over."""
    models = [MODEL | {"name": f"model-{number}"} for number in range(50)]
    page = open_page(f"{console.url}/ui/", before=told(snapshot(*models))).page
    devtools = page.context.new_cdp_session(page)

    def storm(count, first):
        page.evaluate(
            """([count, first]) => { for (let i = 0; i < count; i++) window.muxdTell("event",
            {id: first + i, time: 1000 + i, type: "state", model: `model-${i % 50}`, from: "ready", to: "asleep"}) }""",
            [count, first],
        )
        page.wait_for_timeout(300)
        devtools.send("HeapProfiler.collectGarbage")
        return devtools.send("Runtime.getHeapUsage")["usedSize"]

    full = storm(3000, 1)  # beyond what the page keeps
    after = storm(6000, 4000)
    assert after - full < 3 << 20
