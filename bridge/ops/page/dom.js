// Elements and words. Whatever comes from outside becomes text, never markup.

// el makes an element: attributes and properties by name, then children, which are elements or texts.
export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else if (value === true) e.setAttribute(key, "");
    else if (value !== undefined && value !== false && value !== null) e.setAttribute(key, value);
  }
  e.append(...children.filter((c) => c !== undefined && c !== null && c !== ""));
  return e;
}

export const byId = (id) => document.getElementById(id);

// set changes an element's text only if it is another, so that nothing is announced or selected anew for nothing.
export function set(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// What would turn, hide or break the text around it is shown by its number.
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
export const visible = (text) =>
  String(text).replace(unseen, (c) => `‹U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);

// foreign is a text of somebody else's choice.
export function foreign(text, most = 300, name = "span") {
  const all = visible(text);
  const cut = all.length > most;
  return el(name, { class: "foreign", title: cut ? `${all.length} characters` : undefined }, cut ? all.slice(0, most) + "…" : all);
}

export const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
export const whole = (n) => Math.round(n).toLocaleString("en");

export function rate(n) {
  if (n === 0) return "0";
  if (n < 10) return n.toFixed(1);
  return whole(n);
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400 * 2) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function ago(time) {
  const seconds = (Date.now() - new Date(time)) / 1000;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}
export const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
export const moment = (time) => {
  const t = new Date(time);
  return `${t.toLocaleDateString("en-CA")} ${t.toLocaleTimeString("en-GB")}`;
};

let toast;
export function say(text) {
  const e = byId("copied");
  e.textContent = text;
  e.classList.add("shown");
  clearTimeout(toast);
  toast = setTimeout(() => { e.classList.remove("shown"); e.textContent = ""; }, 2000);
}

// copy puts a text on the clipboard; browsers have that only for localhost and HTTPS.
export async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" }, text);
    document.body.append(area);
    const before = document.activeElement;
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  say(said);
}

// command is a command to copy.
export const command = (text) =>
  el("div", { class: "command" }, el("code", { tabindex: "0" }, visible(text)),
    el("button", { class: "small", "aria-label": `Copy: ${text.slice(0, 80)}`, onclick: () => copy(text, "Command copied") }, "Copy"));
