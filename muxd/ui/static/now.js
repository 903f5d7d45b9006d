// What muxd is doing: the switch, the memory, the models, and who had the GPU.
import { html, useEffect, useMemo, useRef, useState } from "./preact.js";
import { GiB, clock, colour, count, gib, ofHost, precise, span, state } from "./format.js";
import { get, ofModel } from "./api.js";

const PHASES = ["drain", "sleep", "free", "wake"];
const WINDOW = 15 * 60;

// The time since the status was taken, so that ages grow between two of them.
function useAge(at) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 500);
    return () => clearInterval(timer);
  }, []);
  return Math.max(0, now - at);
}

export function Now({ known, status, admin, order, say }) {
  const age = useAge(status.at);
  const names = useMemo(() => status.models.map((model) => model.name), [status.models.length]);
  const [range, setRange] = useState("15m");
  const series = useSeries(range);
  return html`
    ${status.switch ? html`<${Switch} turn=${status.switch} age=${age} />` : html`<${LastSwitch} events=${known.events} />`}
    <${Memory} status=${status} names=${names} />
    <${Models} status=${status} names=${names} series=${series} age=${age} admin=${admin} order=${order} say=${say} />
    <${Lanes} status=${status} names=${names} events=${known.events} now=${status.at + age} />
    <${Plots} names=${names} range=${range} setRange=${setRange} series=${series} />`;
}

function Switch({ turn, age }) {
  const whole = turn.eta_s != null ? turn.elapsed_s + turn.eta_s : null;
  return html`<section class="switch" aria-label="Switch under way">
    <b>⇄ ${turn.from.join(", ") || "nobody"} → ${turn.to}</b>
    <span class="phase">${turn.phase} ${precise(turn.elapsed_s + age)}${whole != null ? ` of about ${span(whole)}` : ""}</span>
    <${Parts} turn=${turn} />
    <progress aria-label="Progress" max=${whole ?? 1} value=${whole != null ? Math.min(whole, turn.elapsed_s + age) : undefined}></progress>
  </section>`;
}

function LastSwitch({ events }) {
  const turn = events.findLast((event) => event.type === "switch");
  if (!turn) return null;
  return html`<section class="switch over" aria-label="Last switch">
    <span>⇄ ${(turn.from || []).join(", ") || "nobody"} → <b>${turn.to || turn.model}</b></span>
    <span>${clock(turn.time)}, ${precise(turn.duration_s)}${turn.result && turn.result !== "ready" ? `, ${turn.result}${turn.reason ? `: ${turn.reason}` : ""}` : ""}</span>
    <${Parts} turn=${turn} /></section>`;
}

const CAUSES = {
  operator: "an operator switched to it, which goes ahead of the queue",
  validation: "an operator has it validated",
  due: "had it begun later, its wait would have passed its bound (wait_target, or batch_max_wait)",
  best: "of the models that requests waited for, the most work waited for it",
  order: "an operator ordered it, and nobody had to leave",
  crash: "it came back by itself after its end",
  preload: "it has preload = true, or it was awake before its GPUs were lent, and the loan is over",
  default: "it is the default model, and nothing else was wanted",
};

// Where the time of a switch went, and in whose name it was asked for.
function Parts({ turn }) {
  const whole = PHASES.reduce((sum, phase) => sum + (turn[`${phase}_s`] || 0), 0);
  const asked = typeof turn.asked_by === "string" ? [turn.asked_by] : (turn.asked_by || []).map((by) => (by.operator ? `operator ${by.operator}` : `${by.key ? `key ${by.key}, ` : ""}request ${String(by.request).slice(0, 8)}`));
  return html`${whole > 0 && html`<span class="parts">${PHASES.filter((phase) => turn[`${phase}_s`] != null).map((phase) => html`<span key=${phase} class=${`part-${phase}`}
      style=${{ flexGrow: turn[`${phase}_s`] / whole }}>${phase} ${precise(turn[`${phase}_s`])}</span>`)}</span>`}
    ${turn.cause && html`<span title=${CAUSES[turn.cause]}>${turn.cause}</span>`}${asked.length > 0 && html`<span>asked by ${asked[0]}${asked.length > 1 ? ` and ${asked.length - 1} more` : ""}</span>`}`;
}

function Memory({ status, names }) {
  const holders = (gpu) => status.models.filter((model) => model.gpus.map(String).includes(String(gpu.index)) && !["unloaded", "standby"].includes(model.state));
  const host = status.host_memory;
  return html`<section class="memory" aria-label="Memory">
    ${status.gpus.map((gpu) => {
      const share = (bytes) => (bytes || 0) / Math.max(1, gpu.total);
      const held = holders(gpu).map((model) => {
        const memory = model.memory || {};
        const whole = model.state === "asleep" ? memory.asleep : (memory.awake ?? memory.declared);
        return { model, bytes: (whole || 0) / Math.max(1, model.gpus.length) };
      });
      const strangers = gpu.strangers?.bytes || 0;
      const told = held.reduce((sum, each) => sum + each.bytes, 0) + strangers;
      const other = Math.max(0, gpu.used - told);
      return html`<div key=${gpu.index} class="bar-row">
        <span class="bar-name">GPU ${gpu.index} <small>${gpu.name}</small></span>
        <div class="bar" role="img" aria-label=${`GPU ${gpu.index}: ${gib(gpu.used)} of ${gib(gpu.total)} GiB used`}>
          ${held.filter((each) => each.bytes > 0).map(({ model, bytes }) => html`<i key=${model.name} title=${`${model.name}: ${gib(bytes)} GiB`}
            style=${{ width: `${100 * share(bytes)}%`, background: colour(names, model.name, model.state === "asleep" ? 0.4 : 0.9) }}>${model.name}</i>`)}
          ${strangers > 0 && html`<i class="strangers" title=${gpu.strangers.text} style=${{ width: `${100 * share(strangers)}%` }}>others</i>`}
          ${other > 0.2 * GiB && html`<i class="other" title=${`${gib(other)} GiB of no model in particular`} style=${{ width: `${100 * share(other)}%` }}></i>`}
        </div>
        <span class="bar-text">${gib(gpu.used)} of ${gib(gpu.total)} GiB${gpu.utilization != null ? ` · ${gpu.utilization} %` : ""}${gpu.temperature != null ? ` · ${gpu.temperature} °C` : ""}${gpu.power_w != null ? ` · ${Math.round(gpu.power_w)} W` : ""}</span>
      </div>`;
    })}
    ${host && html`<div class="bar-row"><span class="bar-name">Host RAM <small>for weights</small></span>
      <div class="bar" role="img" aria-label="Host RAM"><i style=${{ width: `${(100 * host.weights) / Math.max(1, host.for_weights)}%`, background: "var(--accent)" }}></i></div>
      <span class="bar-text">${gib(host.weights)} of ${gib(host.for_weights)} GiB</span></div>`}
  </section>`;
}

function Models({ status, names, series, age, admin, order, say }) {
  const [asking, setAsking] = useState(null);
  const [open, setOpen] = useState(null);
  const give = (model, verb, body = {}) => {
    setAsking(null);
    order(ofModel(model.name, verb), body, `${model.name}: ${verb} was ordered`);
  };
  return html`<section class="models" tabindex="0" aria-label="Models"><table>
    <thead><tr><th>Model</th><th>State</th><th class="n">Since</th><th class="n">GPU GiB</th><th class="n">In flight</th><th class="n">Waiting</th>
      <th class="n">tok/s</th><th>Next</th><th>${admin ? "Orders" : ""}</th></tr></thead>
    <tbody>${status.models.map((model) => {
      const { name, sign, word } = state(model);
      const memory = model.memory || {};
      const held = ["unloaded", "standby", "backoff", "failed"].includes(model.state) ? null : model.state === "asleep" ? memory.asleep : memory.awake;
      return html`<tr key=${model.name} data-model=${model.name} data-state=${model.state} class=${`is-${name}`}>
        <th scope="row"><button class="plain name" aria-expanded=${open === model.name} onClick=${() => setOpen(open === model.name ? null : model.name)}>
          <i class="dot" style=${{ background: colour(names, model.name) }}></i>${model.name}</button></th>
        <td><span class="sign" aria-hidden="true">${sign}</span> ${word}${model.pinned ? " · pinned" : ""}</td>
        <td class="n">${span((model.since_s ?? 0) + age)}</td>
        <td class="n">${gib(held)}</td>
        <td class="n">${count(model.in_flight)}</td>
        <td class=${model.waiting ? "n waits" : "n"}>${count(model.waiting)}</td>
        <td class="n">${rate(series, model.name)}</td>
        <td class="next">${next(model, age)}</td>
        <td class="orders">${admin && (asking?.name === model.name
          ? html`<${Sure} model=${model} verb=${asking.verb} yes=${() => give(model, asking.verb)} no=${() => setAsking(null)} />`
          : html`<button onClick=${() => give(model, "switch")}>switch</button>
            <button onClick=${() => give(model, "sleep")} disabled=${model.state !== "ready"}>sleep</button>
            ${model.stopped_by_operator
              ? html`<button onClick=${() => give(model, "start")}>start</button>`
              : html`<button onClick=${() => setAsking({ name: model.name, verb: "stop" })}>stop</button>`}
            <button onClick=${() => setAsking({ name: model.name, verb: "restart" })}>restart</button>`)}</td>
      </tr>
      ${open === model.name && html`<tr key=${model.name + "/more"} class="more"><td colspan="9"><${Details} model=${model} status=${status} say=${say} /></td></tr>`}`;
    })}</tbody></table></section>`;
}

// Tokens a second: of the last step that is over.
function rate(series, name) {
  const found = series?.models[name]?.tokens_per_s.at(-3);
  return found == null ? "–" : found.toFixed(0);
}

function next(model, age) {
  const parts = [model.next];
  if (model.eta_s != null && model.state !== "ready") parts.push(`ready in about ${span(Math.max(0, model.eta_s - age))}`);
  if (model.waiting && model.oldest_wait_s != null) parts.push(`the oldest waits ${span(model.oldest_wait_s + age)}`);
  const reason = model.impossible || (["backoff", "failed", "stuck", "unresponsive"].includes(model.state) ? model.reason : null);
  if (reason) parts.unshift(reason);
  return parts.filter(Boolean).join("; ");
}

function Sure({ model, verb, yes, no }) {
  const cut = model.in_flight + model.waiting;
  const what = cut ? `${cut} ${cut === 1 ? "request" : "requests"} of ${model.name} would be let finish or refused` : `nobody uses ${model.name} now`;
  return html`<span class="sure" role="alertdialog" aria-label=${`${verb} ${model.name}?`}>${verb} ${model.name}? ${what}.
    <button class="danger" autofocus onClick=${yes}>${verb}</button> <button onClick=${no}>no</button></span>`;
}

function Details({ model, status, say }) {
  const [whole, setWhole] = useState(model);
  useEffect(() => void get(ofModel(model.name, "").replace(/\/$/, "")).then(setWhole, () => {}), [model.name, model.state]);
  const base = `http://${status.proxy.listen.replace(/^(0\.0\.0\.0|\[::\])/, location.hostname)}/v1`;
  const called = model.served_names[0] || model.name;
  const texts = {
    curl: `curl ${base}/chat/completions -H 'content-type: application/json' -d '${JSON.stringify({ model: called, messages: [{ role: "user", content: "Hello" }] })}'`,
    Python: `from openai import OpenAI\nclient = OpenAI(base_url="${base}", api_key="...")\nprint(client.chat.completions.create(model="${called}", messages=[{"role": "user", "content": "Hello"}]).choices[0].message.content)`,
    "base_url": base,
  };
  const copy = (text) => navigator.clipboard?.writeText(text).then(() => say("copied"), () => say(text));
  const facts = [
    ["called", [model.name, ...model.served_names].join(", ")],
    ["engine", model.engine],
    ["pid", whole.pid],
    ["address", whole.url],
    ["context", whole.max_model_len && `${whole.max_model_len} tokens`],
    ["restarts", model.restarts],
    ["memory", whole.memory && `declared ${gib(whole.memory.declared)}, awake ${gib(whole.memory.awake)}, asleep ${gib(whole.memory.asleep)} GiB`],
    ["reason", whole.reason],
    ["last exit", whole.last_exit && whole.last_exit.reason],
  ].filter(([, value]) => value != null && value !== false && value !== "");
  return html`<dl>${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${String(value)}</dd></div>`)}</dl>
    ${whole.last_exit?.log_tail?.length > 0 && html`<pre>${whole.last_exit.log_tail.join("\n")}</pre>`}
    <p>${Object.entries(texts).map(([name, text]) => html`<button key=${name} onClick=${() => copy(text)}>copy ${name}</button> `)}
      <a href=${`#logs/${encodeURIComponent(model.name)}`}>logs</a></p>`;
}

// Who had the GPU: one lane for each model, from the states that its events tell.
function Lanes({ status, names, events, now }) {
  const length = Math.min(WINDOW, Math.max(60, status.uptime_s + now - status.at));
  const from = now - length;
  const spans = useMemo(() => lanes(status, events, from, now), [status, events, Math.floor(now / 2)]);
  const at = (time) => `${(100 * (Math.max(time, from) - from)) / length}%`;
  return html`<section class="lanes" aria-label="Who had the GPU"><h2>Who had the GPU <small>${span(length)} until ${clock(now)}</small></h2>
    ${names.map((name) => html`<div key=${name} class="lane"><span>${name}</span><div>
      ${(spans.get(name) || []).map((each, number) => html`<i key=${number} class=${`lane-${each.state}`} title=${`${each.state} from ${clock(each.from)}, ${span(each.to - each.from)}${each.why ? `: ${each.why}` : ""}`}
        style=${{ left: at(each.from), width: `calc(${at(each.to)} - ${at(each.from)})`, "--colour": colour(names, name) }}></i>`)}</div></div>`)}
  </section>`;
}

const SHOWN = new Set(["ready", "starting", "waking", "draining", "falling_asleep"]);
function lanes(status, events, from, now) {
  const found = new Map(status.models.map((model) => [model.name, []]));
  const current = new Map();
  let started = from; // the last start of muxd: a state that went while muxd was gone is in no event
  const close = (name, to) => {
    const open = current.get(name);
    if (open && SHOWN.has(open.state) && to > from) found.get(name)?.push({ ...open, to });
  };
  const move = (name, state, time, why) => {
    close(name, time);
    current.set(name, { state, from: time, why });
  };
  const correct = (name, state, time) => {
    const open = current.get(name);
    if (open && open.state !== state) move(name, state, Math.max(open.from, started, time));
  };
  for (const event of events) {
    if (event.type === "muxd_started") started = event.time;
    if (event.type !== "state" || !found.has(event.model)) continue;
    if (!current.has(event.model)) current.set(event.model, { state: event.from, from });
    correct(event.model, event.from, from);
    move(event.model, event.to, event.time, event.reason);
  }
  for (const model of status.models) {
    const since = Math.max(from, status.at - model.since_s);
    if (!current.has(model.name)) current.set(model.name, { state: model.state, from: since });
    correct(model.name, model.state, since);
    close(model.name, now);
  }
  return found;
}

// Plots of the series that muxd keeps: all of it once, and then what is new; the last steps may still have grown.
const PLOTS = [
  ["tokens_per_s", "tokens/s", 1],
  ["in_flight", "in flight", 1],
  ["waiting", "waiting", 1],
  ["first_token_p50_s", "first token, s (median)", 1],
  ["gpu_bytes", "GPU memory, GiB", GiB],
];
const RANGES = { "15m": [900, 1], "1h": [360, 10], "24h": [8640, 10] }; // steps, and the seconds of each
const OVERLAP = 4;

export function merged(before, found, most) {
  const end = (series) => series.from + series.step * Math.max(0, ...Object.values(series.models).map((each) => each.tokens_per_s.length));
  const from = Math.max(before ? Math.min(before.from, found.from) : found.from, end(found) - most * found.step);
  const length = Math.round((end(found) - from) / found.step);
  const models = {};
  for (const [name, fields] of Object.entries(found.models)) {
    models[name] = {};
    for (const [field, values] of Object.entries(fields)) {
      const whole = new Array(length).fill(null);
      for (const [series, part] of [[before, before?.models[name]?.[field]], [found, values]]) {
        if (!part) continue;
        const shift = Math.round((series.from - from) / found.step);
        part.forEach((value, at) => {
          if (at + shift >= 0 && at + shift < length) whole[at + shift] = value;
        });
      }
      models[name][field] = whole;
    }
  }
  return { step: found.step, from, models, times: Array.from({ length }, (_, at) => from + at * found.step) };
}

function useSeries(range) {
  const [series, setSeries] = useState(null);
  useEffect(() => {
    let stopped = false;
    let known = null;
    const [most, step] = RANGES[range];
    const load = async () => {
      const from = known && known.times.length > OVERLAP ? `&from=${known.times.at(-OVERLAP)}` : "";
      try {
        const found = await get(`series?step=${step}${from}`);
        if (!stopped) setSeries((known = merged(known, found, most)));
      } catch {
        known = null; // muxd is away, or begins anew
      }
    };
    load();
    const timer = setInterval(load, step === 1 ? 2000 : 10000);
    return () => {
      stopped = true;
      clearInterval(timer);
    };
  }, [range]);
  return series;
}

function Plots({ names, range, setRange, series }) {
  if (!series) return null;
  return html`<section class="plots"><h2>Figures <span class="ranges">${Object.keys(RANGES).map((name) => html`<button key=${name} aria-pressed=${range === name} onClick=${() => setRange(name)}>${name}</button>`)}</span></h2>
    <div class="grid">${PLOTS.map(([key, title, unit]) => html`<${Plot} key=${key} title=${title} of=${key} unit=${unit} series=${series} names=${names} />`)}</div></section>`;
}

// The first step of which anything is known, so that a plot of a young muxd is not empty; at least a minute is shown.
function first(series) {
  const known = Object.values(series.models).map((each) => each.in_flight.findIndex((value) => value != null)).filter((at) => at >= 0);
  return Math.max(0, Math.min(Math.min(...known, series.times.length), series.times.length - 60));
}

function Plot({ title, of, unit, series, names }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shown = names.filter((name) => series.models[name]);
  const begun = first(series);
  const data = [series.times.slice(begun), ...shown.map((name) => (series.models[name][of] || []).slice(begun).map((value) => (value == null ? null : value / unit)))];
  const labels = shown.join();
  useEffect(() => {
    if (!window.uPlot || !place.current) return undefined;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--muted");
    const axis = { stroke: ink, grid: { stroke: "rgba(127,127,127,.18)" }, ticks: { show: false }, font: "11px system-ui" };
    plot.current = new uPlot({
      tzDate: ofHost,
      width: place.current.clientWidth, height: 130, cursor: { y: false }, legend: { show: false },
      series: [{}, ...shown.map((name) => ({ label: name, stroke: colour(names, name), width: 1.5, spanGaps: false, points: { show: of.startsWith("first"), size: 4 } }))],
      axes: [{ ...axis }, { ...axis, size: 44 }], scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    }, data, place.current);
    const resize = new ResizeObserver(() => plot.current?.setSize({ width: place.current.clientWidth, height: 130 }));
    resize.observe(place.current);
    return () => {
      resize.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [labels]);
  useEffect(() => plot.current?.setData(data), [series]);
  return html`<figure><figcaption>${title}</figcaption><div ref=${place}></div></figure>`;
}
