// What happened: the entries of muxd's events, newest first.
import { html, useState } from "./preact.js";
import { clock } from "./format.js";

export function Events({ known, status }) {
  const [model, setModel] = useState("");
  const [type, setType] = useState("");
  const types = [...new Set(known.events.map((event) => event.type))].sort();
  const shown = known.events.filter((event) => (!model || event.model === model) && (!type || event.type === type)).slice(-500).reverse();
  return html`<p class="filters">
      <label>model <select aria-label="model" value=${model} onChange=${(event) => setModel(event.target.value)}><option value="">all</option>
        ${status.models.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>
      <label>type <select aria-label="type" value=${type} onChange=${(event) => setType(event.target.value)}><option value="">all</option>
        ${types.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label></p>
    <table class="events"><thead><tr><th>Time</th><th>Type</th><th>Model</th><th>What</th></tr></thead>
    <tbody>${shown.map((event) => html`<tr key=${event.id}><td>${clock(event.time)}</td><td>${event.type}</td><td>${event.model || ""}</td><td>${facts(event)}</td></tr>`)}</tbody></table>
    ${shown.length === 0 && html`<p class="empty">nothing yet</p>`}`;
}

function facts(event) {
  const { id, time, type, model, from, to, ...rest } = event;
  const moved = from || to ? [`${from || ""} → ${to || ""}`] : [];
  const others = Object.entries(rest).filter(([, value]) => value != null && value !== "").map(([key, value]) => `${key.replaceAll("_", " ")}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  return [...moved, ...others].join(" · ");
}
