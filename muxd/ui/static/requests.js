// Who asks what: requests that run, that wait, and that have ended.
import { html, useEffect, useState } from "./preact.js";
import { get, post } from "./api.js";
import { clock, precise } from "./format.js";

export function Requests({ admin, say }) {
  const [found, setFound] = useState(null);
  const [wrong, setWrong] = useState("");
  useEffect(() => {
    let stopped = false;
    const load = () => get("requests").then((value) => !stopped && (setFound(value), setWrong("")), (error) => !stopped && setWrong(error.message));
    load();
    const timer = setInterval(load, 1000);
    return () => {
      stopped = true;
      clearInterval(timer);
    };
  }, []);
  if (wrong) return html`<p class="notice wrong" role="alert">${wrong}</p>`;
  if (!found) return html`<p class="loading">asking…</p>`;
  const cancel = (id) => post(`requests/${encodeURIComponent(id)}/cancel`).then(() => say("the request was cancelled"), (error) => say(error.message, true));
  const of = (state) => found.requests.filter((request) => request.state === state);
  const whose = [["id"], ["key"], ["model"], ["route"]];
  const times = [["waited_s", "waited", precise], ["first_token_s", "first token", precise]];
  const tokens = [["completion_tokens", "tokens out"], ["tokens_per_s", "tok/s", rate]];
  const who = [["client"], ["agent"]];
  return html`
    <${Table} title="Running" rows=${of("running")} columns=${[...whose, ["duration_s", "age", precise], ...times, ...tokens, ...who]} action=${admin && cancel} />
    <${Table} title="Waiting" rows=${of("waiting")} columns=${[...whose, ["duration_s", "age", precise], ...who]} action=${admin && cancel} />
    <${Table} title="Ended" rows=${of("ended").reverse()} columns=${[["ended", "time", clock], ...whose, ["status"], ["end"], ["code"], ...times, ["duration_s", "total", precise], ["prompt_tokens", "tokens in"], ...tokens, ...who]} />`;
}

const rate = (value) => (value == null ? "–" : value.toFixed(1));

function Table({ title, rows, columns, action }) {
  return html`<section><h2>${title} <small>${rows.length}</small></h2>
    ${rows.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Table"><table><thead><tr>${columns.map(([key, name]) => html`<th key=${key}>${name || key}</th>`)}${action && html`<th></th>`}</tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.entry ?? row.id}>${columns.map(([key, , show]) => html`<td key=${key}>${row[key] == null ? "–" : show ? show(row[key]) : String(row[key])}</td>`)}
        ${action && html`<td><button onClick=${() => action(row.id)}>cancel</button></td>`}</tr>`)}</tbody></table></div>`}</section>`;
}
