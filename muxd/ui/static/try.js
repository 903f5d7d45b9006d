// A chat with a model, through the proxy, as any client has it.
import { html, useRef, useState } from "./preact.js";
import { pieces } from "./api.js";
import { precise } from "./format.js";

export function TryIt({ status }) {
  const [model, setModel] = useState(status.models[0]?.name || "");
  const [prompt, setPrompt] = useState("Say hello.");
  const [key, setKey] = useState("");
  const [answer, setAnswer] = useState("");
  const [figures, setFigures] = useState("");
  const [wrong, setWrong] = useState("");
  const running = useRef(null);
  const [busy, setBusy] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    running.current = new AbortController();
    setAnswer("");
    setWrong("");
    setFigures("waiting…");
    setBusy(true);
    const begun = performance.now();
    let first = null;
    let count = 0;
    try {
      const body = { model, stream: true, max_tokens: 256, messages: [{ role: "user", content: prompt }] };
      const headers = key ? { "x-api-key": key } : {};
      let rest = "";
      for await (const piece of pieces("chat", { method: "POST", body, headers, signal: running.current.signal })) {
        const lines = (rest + piece).split("\n");
        rest = lines.pop();
        for (const line of lines.filter((each) => each.startsWith("data: ") && each !== "data: [DONE]")) {
          const told = JSON.parse(line.slice(6));
          if (told.error) throw new Error(told.error.message);
          const text = told.choices?.[0]?.delta?.content;
          if (!text) continue;
          first ??= performance.now();
          count += 1;
          setAnswer((before) => before + text);
        }
      }
      const took = (performance.now() - begun) / 1000;
      setFigures(first === null ? `${precise(took)}, no text` : `first token after ${precise((first - begun) / 1000)}, ${count} events in ${precise(took)}`);
    } catch (error) {
      setFigures("");
      setWrong(running.current.signal.aborted ? "stopped" : error.message);
    } finally {
      setBusy(false);
    }
  };
  return html`<form class="try" onSubmit=${send}>
    <label>model <select aria-label="model" value=${model} onChange=${(event) => setModel(event.target.value)}>${status.models.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>
    ${status.door.open_to === "key_holders" && html`<label>API key <input type="password" autocomplete="off" value=${key} onInput=${(event) => setKey(event.target.value)} /></label>`}
    <label class="wide">prompt <textarea rows="3" value=${prompt} onInput=${(event) => setPrompt(event.target.value)}></textarea></label>
    <p><button disabled=${busy}>Send</button> ${busy && html`<button type="button" onClick=${() => running.current.abort()}>Stop</button>`} <small>${figures}</small></p>
    ${wrong && html`<p class="notice wrong" role="alert">${wrong}</p>`}
    <pre class="answer" aria-live="polite">${answer}</pre>
  </form>`;
}
