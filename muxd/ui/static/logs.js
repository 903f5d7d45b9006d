// What a model, muxd or all of them write, as it comes.
import { html, useEffect, useRef, useState } from "./preact.js";
import { ofModel, pieces } from "./api.js";
import { precisely } from "./format.js";

const MOST = 200000; // characters that are kept
const ALL = "*"; // no model is called so

export function Logs({ status, admin }) {
  const [model, setModel] = useState(decodeURIComponent(location.hash.split("/")[1] || "") || status.models[0]?.name || "");
  const [stream, setStream] = useState("both");
  const [follow, setFollow] = useState(true);
  const [times, setTimes] = useState(false);
  const [search, setSearch] = useState("");
  const [text, setText] = useState("");
  const [wrong, setWrong] = useState("");
  const place = useRef(null);
  useEffect(() => {
    if (!admin || !model) return undefined;
    const end = new AbortController();
    setText("");
    setWrong("");
    (async () => {
      try {
        const query = `lines=500&follow=1${stream === "both" ? "" : `&stream=${stream}`}`;
        let rest = "";
        for await (const piece of pieces(model === ALL ? `logs?${query}` : ofModel(model, `logs?${query}`), { signal: end.signal })) {
          const whole = (rest + piece).split("\n");
          rest = whole.pop();
          const told = whole.filter(Boolean).map((each) => JSON.parse(each));
          const lines = told.map((each) => (each.line == null ? `[${each.missed ?? "some"} lines were missed]` : (times ? `${precisely(each.time)} ` : "") + workerOf(each) + each.line));
          if (lines.length) setText((before) => `${before}${lines.join("\n")}\n`.slice(-MOST));
        }
      } catch (error) {
        if (!end.signal.aborted) setWrong(error.message);
      }
    })();
    return () => end.abort();
  }, [model, stream, times, admin]);
  useEffect(() => {
    if (follow && place.current) place.current.scrollTop = place.current.scrollHeight;
  }, [text, follow]);
  if (!admin) return html`<p class="empty">Logs are for administrators: engines write their requests and keys there.</p>`;
  const lines = search ? text.split("\n").filter((line) => line.toLowerCase().includes(search.toLowerCase())).join("\n") : text;
  return html`<p class="filters">
      <label>of <select aria-label="of" value=${model} onChange=${(event) => setModel(event.target.value)}>${[...status.models.map(({ name }) => name), "proxy", "muxd", ALL].map((name) => html`<option key=${name} value=${name}>${name === ALL ? "all" : name}</option>`)}</select></label>
      <label>stream <select aria-label="stream" value=${stream} onChange=${(event) => setStream(event.target.value)}>${["both", "stdout", "stderr"].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>
      <label><input type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} /> follow</label>
      <label><input type="checkbox" checked=${times} onChange=${(event) => setTimes(event.target.checked)} /> times</label>
      <input type="search" placeholder="search" aria-label="Search" value=${search} onInput=${(event) => setSearch(event.target.value)} /></p>
    ${wrong && html`<p class="notice wrong" role="alert">${wrong}</p>`}
    <pre class="log" ref=${place} tabindex="0">${lines || "nothing yet"}</pre>`;
}

// Of a model with several workers the stream's name begins with the worker's.
function workerOf({ stream }) {
  const at = (stream || "").lastIndexOf(" ");
  return at > 0 ? `${stream.slice(0, at)}: ` : "";
}
