// The page: what it knows of muxd, and the tab that shows it.
import { html, render, useEffect, useReducer, useState } from "./preact.js";
import { get, live, post } from "./api.js";
import { Now } from "./now.js";
import { Requests } from "./requests.js";
import { Logs } from "./logs.js";
import { Events } from "./events.js";
import { TryIt } from "./try.js";
import { Config, Keys } from "./settings.js";
import { setOffset, span, zone } from "./format.js";

const KEPT = 2000; // events

const TABS = [
  ["now", "Now", Now],
  ["requests", "Requests", Requests, "view"],
  ["logs", "Logs", Logs, "admin"],
  ["events", "Events", Events],
  ["try", "Try it", TryIt],
  ["keys", "Keys", Keys, "admin"],
  ["config", "Config", Config, "admin"],
];

function reduce(known, [kind, value]) {
  switch (kind) {
    case "snapshot": {
      const old = known.started === started(value.status) ? known.events : [];
      const seen = new Set(old.map((event) => event.id));
      const events = [...old, ...value.events.filter((event) => !seen.has(event.id))].slice(-KEPT);
      return { ...known, status: value.status, events, gone: null, started: started(value.status) };
    }
    case "status":
      return { ...known, status: value, gone: null };
    case "event":
      return { ...known, events: [...known.events.slice(1 - KEPT), value] };
    case "gone":
      return { ...known, gone: value.message };
    default:
      return known;
  }
}

function hear(tell, kind, value) {
  setOffset((kind === "snapshot" ? value.status : kind === "status" ? value : {}).utc_offset_s);
  tell([kind, value]);
}

const started = (status) => `${status.pid}-${Math.round(status.at - status.uptime_s)}`;

function App() {
  const [known, tell] = useReducer(reduce, { status: null, events: [], gone: null });
  const [me, setMe] = useState(null);
  const [tab, setTab] = useState(location.hash.slice(1).split("/")[0] || "now");
  const [notice, setNotice] = useState(null);
  const [theme, setTheme] = useState(localStorage.getItem("theme") || "");

  useEffect(() => void get("me").then(setMe, () => setMe({ level: "none", name: "" })), []);
  useEffect(() => (me && me.level !== "none" ? live((kind, value) => hear(tell, kind, value)) : undefined), [me?.level]);
  useEffect(() => void (window.muxdTell = (kind, value) => hear(tell, kind, value)), []);
  useEffect(() => {
    const follow = () => setTab(location.hash.slice(1).split("/")[0] || "now");
    follow(); // it may have changed before anybody listened
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
  }, [theme]);

  if (me === null) return html`<p class="loading">muxd</p>`;
  if (me.level === "none") return html`<${Login} onLogin=${setMe} />`;
  const admin = me.level === "admin";
  const say = (text, wrong = false) => setNotice({ text, wrong });
  const order = async (path, body, done) => {
    try {
      await post(path, body);
      say(done);
    } catch (error) {
      say(error.message, true);
    }
  };
  const [, , Shown] = TABS.find(([name]) => name === tab) || TABS[0];
  return html`
    <${Head} known=${known} me=${me} setMe=${setMe} theme=${theme} setTheme=${setTheme} />
    ${known.gone && html`<p class="gone" role="alert">muxd is not running, or cannot be reached; waiting. <small>${known.gone}</small></p>`}
    <nav aria-label="Views">
      ${TABS.map(([name, title, , level]) => html`
        <a key=${name} href=${"#" + name} aria-current=${tab === name ? "page" : undefined}
          class=${level === undefined || admin || level === me.level ? "" : "closed"}>${title}</a>`)}
    </nav>
    ${notice && html`<p class=${notice.wrong ? "notice wrong" : "notice"} role="status">
      ${notice.text}<button class="plain" aria-label="Close" onClick=${() => setNotice(null)}>✕</button></p>`}
    <main>${known.status
      ? html`<${Shown} known=${known} status=${known.status} admin=${admin} order=${order} say=${say} />`
      : html`<p class="loading">${known.gone ? "" : "asking muxd…"}</p>`}</main>`;
}

function Head({ known, me, setMe, theme, setTheme }) {
  const status = known.status;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const leave = () => post("logout").then(() => location.reload());
  return html`<header>
    <strong>muxd</strong>
    ${status && html`<span>${status.version}${status.simulated ? " · simulated" : ""} · up ${span(status.uptime_s)}</span>
      <span title="times on this page are muxd's">times ${zone()}</span>
      <span>proxy ${status.proxy.listen}${status.proxy.state === "running" || status.proxy.state === "unmanaged" ? "" : ` (${status.proxy.state})`}</span>
      <span>${door(status.door)}</span>
      ${status.config_written && html`<a href="#config">the configuration was changed: reload</a>`}
      ${status.reload_failed && html`<a href="#config" title=${status.reload_failed.reason}>▲ the last reload failed</a>`}`}
    <span class="fill"></span>
    <button class="plain" aria-label=${dark ? "Light colours" : "Dark colours"} onClick=${() => setTheme(dark ? "light" : "dark")}>${dark ? "☀" : "☾"}</button>
    ${me.name
      ? html`<button class="plain" onClick=${leave}>${me.name === "link" ? "operator" : me.name} · log out</button>`
      : html`<${Login} small onLogin=${setMe} />`}
  </header>`;
}

function door(door) {
  if (door.open_to === "key_holders") return `${door.keys} ${door.keys === 1 ? "key" : "keys"}`;
  return door.open_to === "host" ? "open to this host" : "open to everybody";
}

function Login({ small, onLogin }) {
  const [open, setOpen] = useState(!small);
  const [wrong, setWrong] = useState("");
  const enter = async (event) => {
    event.preventDefault();
    try {
      const me = await post("login", { key: new FormData(event.target).get("key") });
      setWrong("");
      setOpen(!small);
      onLogin(me);
    } catch (error) {
      setWrong(error.message);
    }
  };
  if (!open) return html`<button class="plain" onClick=${() => setOpen(true)}>log in to operate</button>`;
  return html`<form class=${small ? "login small" : "login"} onSubmit=${enter}>
    ${!small && html`<h1>muxd</h1><p>An API key with <code>view = true</code> or <code>admin = true</code>, or the link that <code>muxctl ui</code> prints.</p>`}
    <input name="key" type="password" autocomplete="current-password" aria-label="API key" placeholder="API key" required autofocus />
    <button>Log in</button>
    ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}
  </form>`;
}

render(html`<${App} />`, document.getElementById("app"));
