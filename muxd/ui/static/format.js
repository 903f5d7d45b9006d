// Figures and times as people read them.

export const GiB = 2 ** 30;

export function span(seconds) {
  if (seconds == null) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s}s`;
  if (s < 5400) return `${Math.round(s / 60)}min`;
  if (s < 172800) return `${Math.floor(s / 3600)}h ${Math.round((s % 3600) / 60)}min`;
  return `${Math.round(s / 86400)}d`;
}

export function precise(seconds) {
  if (seconds == null) return "–";
  return seconds < 10 ? `${seconds.toFixed(1)}s` : span(seconds);
}

export const gib = (bytes) => (bytes == null ? "–" : (bytes / GiB).toFixed(1));

// Times are the host's, as muxctl and the logs have them, wherever the page is looked at.
let offset = 0; // seconds from UTC

export function setOffset(seconds) {
  if (seconds != null) offset = seconds;
}

export const clock = (time) => new Date((time + offset) * 1000).toISOString().slice(11, 19);

// A Date whose local fields are the host's: for plots, which draw local times.
export const ofHost = (time) => new Date((time + offset + new Date(time * 1000).getTimezoneOffset() * 60) * 1000);

export function zone() {
  const minutes = Math.abs(Math.round(offset / 60));
  const two = (value) => String(value).padStart(2, "0");
  return `UTC${offset < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

// A line's time to the millisecond; dashes where nobody has kept it.
export const precisely = (time) => (time == null ? "------------" : `${clock(time)}.${String(Math.floor((time % 1) * 1000)).padStart(3, "0")}`);

export const count = (value) => (value ? String(value) : "0");

// Every state of a worker: its sign, and its word.  The sign and the word say it, colour only repeats it.
export const STATES = {
  unloaded: ["○", "not loaded"],
  standby: ["⊙", "standby"],
  starting: ["◐", "loading"],
  ready: ["●", "ready"],
  draining: ["◑", "draining"],
  falling_asleep: ["◔", "falling asleep"],
  asleep: ["◌", "asleep"],
  waking: ["◕", "waking"],
  stopping: ["◍", "stopping"],
  unresponsive: ["!", "unresponsive"],
  backoff: ["▲", "back-off"],
  failed: ["▲", "failed"],
  stuck: ["■", "stuck"],
  stopped: ["□", "stopped"],
};

export function state(model) {
  const name = model.stopped_by_operator && model.state === "unloaded" ? "stopped" : model.state;
  const [sign, word] = STATES[name] || ["?", name];
  const level = name === "asleep" && model.level != null ? ` at level ${model.level}` : "";
  return { name, sign, word: word + level };
}

// A colour for each model, the same in bars, lanes and plots.
const HUES = [212, 28, 145, 280, 350, 178, 52, 320, 95, 240];
export function colour(names, name, alpha = 1) {
  const at = Math.max(0, names.indexOf(name));
  return `hsl(${HUES[at % HUES.length]} 62% ${at >= HUES.length ? 38 : 50}% / ${alpha})`;
}
