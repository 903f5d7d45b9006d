// Keys and the configuration: what an administrator changes.
import { html, useEffect, useState } from "./preact.js";
import { get, post } from "./api.js";

export function Keys({ admin, say }) {
  const [keys, setKeys] = useState(null);
  const [usage, setUsage] = useState({});
  const [secret, setSecret] = useState(null);
  const load = () => get("keys").then((found) => setKeys(found.keys), (error) => say(error.message, true));
  useEffect(() => {
    if (!admin) return;
    load();
    get("usage?days=1").then((found) => setUsage(byKey(found.usage)), () => {});
  }, [admin]);
  if (!admin) return html`<p class="empty">Keys are for administrators.</p>`;
  const add = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const models = form.get("models").split(",").map((name) => name.trim()).filter(Boolean);
    try {
      setSecret(await post("keys/add", { name: form.get("name"), models, requests_per_minute: form.get("rpm") ? Number(form.get("rpm")) : null, expires: form.get("expires") }));
      event.target.reset();
      load();
    } catch (error) {
      say(error.message, true);
    }
  };
  const revoke = async (name) => {
    if (!confirm(`Revoke ${name}? Whoever uses it gets 401 from now on.`)) return;
    try {
      await post(`keys/${encodeURIComponent(name)}/revoke`);
      load();
    } catch (error) {
      say(error.message, true);
    }
  };
  return html`
    ${secret && html`<p class="notice" role="status">The secret of ${secret.name}, shown this one time: <code>${secret.secret}</code></p>`}
    <div class="scroll" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th>Key</th><th>Models</th><th class="n">Per minute</th><th>Expires</th><th>State</th><th class="n">Requests today</th><th></th></tr></thead>
    <tbody>${(keys || []).map((each) => html`<tr key=${each.name}><th scope="row">${each.name}</th><td>${each.models?.join(", ") || "all"}</td><td class="n">${each.requests_per_minute ?? "–"}</td>
      <td>${each.expires ?? "never"}</td><td>${each.state}</td><td class="n">${usage[each.name]?.requests ?? "–"}</td>
      <td>${each.state === "active" && html`<button onClick=${() => revoke(each.name)}>revoke</button>`}</td></tr>`)}</tbody></table></div>
    ${keys?.length === 0 && html`<p class="empty">There is no key: nobody needs one. With the first one everybody does.</p>`}
    <form class="filters" onSubmit=${add}><label>name <input name="name" required pattern="[a-z0-9._\\-]+" /></label><label>models <input name="models" placeholder="all" /></label>
      <label>per minute <input name="rpm" type="number" min="1" /></label><label>expires <input name="expires" placeholder="never, 30d, 2027-01-31" /></label><button>Add a key</button></form>`;
}

function byKey(usage) {
  const found = {};
  for (const { key, requests } of usage) found[key] = { requests: (found[key]?.requests || 0) + requests };
  return found;
}

export function Config({ status, admin, say }) {
  const [plan, setPlan] = useState(null);
  if (!admin) return html`<p class="empty">The configuration is for administrators.</p>`;
  const reload = async (dry) => {
    try {
      const found = await post("reload", { dry_run: dry });
      setPlan({ ...found, dry });
      if (!dry) say("the configuration was taken over");
    } catch (error) {
      setPlan(null);
      say(error.message, true);
    }
  };
  const nothing = plan && !plan.plan?.length && !plan.settings?.length;
  return html`<p>muxd runs with <code>${status.config || "the command line alone"}</code>; logs are in <code>${status.log_dir}</code>.
      ${status.config_written ? " It was written to since muxd read it." : ""}</p>
    <p><button onClick=${() => reload(true)}>What would a reload change?</button> <button class="danger" disabled=${!plan?.dry || nothing} onClick=${() => reload(false)}>Reload</button></p>
    ${plan && html`<section><h2>${plan.dry ? "A reload would change" : "The reload changed"}</h2>
      ${nothing && html`<p class="empty">nothing</p>`}
      <ul>${(plan.plan || []).map((each) => html`<li key=${each.model}>${each.model}: ${each.action}${each.changes?.length ? ` (${each.changes.join(", ")})` : ""}</li>`)}
        ${(plan.settings || []).map((each) => html`<li key=${JSON.stringify(each)}>${typeof each === "string" ? each : JSON.stringify(each)}</li>`)}</ul></section>`}`;
}
