// The live page: it shows what /api/ tells, and changes nothing.
import { ago, byId, bytes, clock, command, copy, count, duration, el, foreign, moment, rate, set, visible, whole } from "./dom.js";
import { draw, newChart } from "./chart.js";

const span = 900; // seconds that charts go back
const rows = 100; // of Live
const state = {
  status: null,
  columns: {}, // figures by name, oldest first
  seconds: 0,
  cursors: {}, // by sink
  waiting: [], // [time, bytes that wait], for the time left
  paused: false, held: [], missed: 0,
  known: new Set(), meanwhile: null,
  view: "live", opened: 0, opener: null,
};

async function ask(path) {
  const response = await fetch(location.origin + path); // without a password that the address may have
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail ?? response.statusText);
  return body;
}

// Now

const figures = {};
function figure(id, title, chart) {
  const f = { value: el("div", { class: "value" }), note: el("div", { class: "note" }) };
  f.element = el("div", { class: "figure", id: `figure-${id}` }, el("h3", {}, title), f.value, f.note);
  if (chart) {
    f.chart = newChart(title, chart);
    f.element.append(f.chart.element);
  }
  byId("figures").append(f.element);
  figures[id] = f;
  return f;
}

function value(f, number, unit) {
  const text = `${number} ${unit}`;
  if (f.shown === text) return;
  f.shown = text;
  f.value.replaceChildren(number, " ", el("small", {}, unit));
}

const column = (name) => state.columns[name] ?? [];
// recently is the average of the last seconds of a column.
function recently(name, seconds = 5) {
  const last = column(name).slice(-seconds);
  return last.length ? last.reduce((a, b) => a + b, 0) / last.length : 0;
}
const refusals = () => Object.keys(state.columns).filter((n) => n.startsWith("requests.") && n !== "requests.accepted" && n !== "requests.duplicate");
const persecond = (n) => `${rate(n)} a second`;

function sum(names) {
  const all = new Float32Array(state.seconds);
  for (const name of names) column(name).forEach((v, i) => { all[i] += v; });
  return [...all];
}

function showRates() {
  value(figures.accepted, rate(recently("requests.accepted")), "webhooks/s");
  draw(figures.accepted.chart, column("requests.accepted"), persecond);
  const refused = refusals();
  const now = refused.map((n) => [recently(n), n]).filter(([v]) => v > 0).sort((a, b) => b[0] - a[0]);
  value(figures.refused, rate(now.reduce((a, [v]) => a + v, 0)), "requests/s");
  const all = sum(refused);
  draw(figures.refused.chart, all, persecond);
  const total = all.reduce((a, b) => a + b, 0);
  set(figures.refused.note, now.length ? now.map(([v, n]) => `${words(n.slice(9))} ${rate(v)}/s`).join(", ")
    : total ? `${whole(total)} in 15 minutes: ${refused.map((n) => words(n.slice(9))).join(", ")}` : "none in 15 minutes");
  value(figures.duplicates, rate(recently("requests.duplicate")), "webhooks/s");
  draw(figures.duplicates.chart, column("requests.duplicate"), persecond);
  set(figures.duplicates.note, "sent again, and known");
  for (const s of Object.values(sinks)) {
    set(s.rate, rate(recently(`sinks.${s.name}.acknowledged`)));
    draw(s.chart, column(`sinks.${s.name}.acknowledged`), persecond);
    draw(s.backlogChart, column(`sinks.${s.name}.backlog`), (n) => count(n, "webhook"), 50);
  }
}

const words = (result) => result.replaceAll("_", " ");

const sinks = {};
function sink(name) {
  if (sinks[name]) return sinks[name];
  const s = { name };
  s.state = el("span", { class: "state" });
  s.backlog = el("span", {});
  s.age = el("dd", {});
  s.rate = el("span", {}, "0");
  s.chart = newChart(`Events a second to ${name}`);
  s.backlogChart = newChart(`Backlog of ${name}`, "warn");
  s.trouble = el("div", { class: "trouble", hidden: true });
  s.element = el("article", { class: "sink", "aria-label": `Sink ${name}` },
    el("div", { class: "top" }, el("h3", {}, name), s.state),
    el("dl", {}, el("div", {}, el("dt", {}, "Events/s"), el("dd", {}, s.rate, s.chart.element)),
      el("div", {}, el("dt", {}, "Backlog"), el("dd", {}, s.backlog, s.backlogChart.element)),
      el("div", {}, el("dt", {}, "Oldest"), s.age)), s.trouble);
  byId("sinks").append(s.element);
  return (sinks[name] = s);
}

function showSink(one, stored) {
  const s = sink(one.sink);
  const configured = stored ? one.configured : true;
  const name = configured ? one.state : "";
  s.state.dataset.state = name;
  set(s.state, !configured ? "not configured" : name || "not known yet");
  const backlog = stored ? one.backlog_webhooks : one.webhooks;
  set(s.backlog, stored ? whole(backlog) : `${whole(backlog)} under way`);
  set(s.age, one.oldest_undelivered_received_at && backlog > 0 ? duration((Date.now() - new Date(one.oldest_undelivered_received_at)) / 1000) : "–");
  const said = [];
  if (one.advice) said.push(el("p", {}, `Since ${moment(one.since)} (${ago(one.since)}). `, one.advice));
  if (one.missed_events) said.push(el("p", {}, "It has missed ", count(one.missed_events, "event"), " since the start, for good."));
  if (one.advice && one.last_error) said.push(el("p", {}, "Last error: ", foreign(one.last_error)));
  if (one.stands_still) said.push(el("p", {}, foreign(one.stands_still)));
  if (one.missing) said.push(el("p", {}, "The broker went back: events of ", count(one.missing.webhooks, "webhook"), " may be missing."), command(one.missing.command));
  if (stored && !configured && backlog > 0) said.push(el("p", {}, "It is not in FNBRIDGE_SINKS, and keeps what waits for it."), command(`fnbridge sinks forget ${one.sink}`));
  const text = said.map((e) => e.textContent).join();
  if (s.said !== text) {
    s.said = text;
    s.trouble.replaceChildren(...said);
  }
  s.trouble.hidden = said.length === 0;
}

// showAttention lists what the configuration, a file or a broker has that may cost events, and how full brokers are.
function showAttention(status) {
  const said = [];
  for (const f of status.refused_files ?? []) said.push(el("li", {}, el("strong", {}, f.variable), " ", foreign(f.reason)));
  for (const w of status.warnings ?? []) said.push(el("li", {}, el("strong", {}, w.sink ?? "fnbridge"), " ", foreign(w.text)));
  for (const s of status.storage ?? []) {
    const text = `${s.of} holds ${bytes(s.used_bytes)} of ${bytes(s.limit_bytes)}`;
    const left = s.full_at ? (new Date(s.full_at) - Date.now()) / 1000 : Infinity;
    const then = s.drops_oldest ? "; the oldest events make room" : "; new events then wait";
    said.push(el("li", { class: "quiet" }, el("strong", {}, s.sink), " ", foreign(text),
      left === Infinity ? "" : left <= 0 ? `, and is full${then}` : `, and is full in ${duration(left)} at this rate${then}`));
  }
  byId("attention").hidden = said.length === 0;
  const text = said.map((e) => e.textContent).join();
  if (state.attention === text) return;
  state.attention = text;
  byId("attention").replaceChildren(...said);
}

function showStatus(status) {
  const first = !state.status;
  state.status = status;
  const stored = status.ack === "journal";
  const troubled = status.sinks.filter((s) => s.advice);
  const letters = stored ? status.sinks.reduce((a, s) => a + s.dead_letters, 0) : 0;
  set(byId("summary"), [
    status.ready ? "Taking webhooks" : `Not taking webhooks: ${status.not_ready}`,
    troubled.length ? troubled.map((s) => `${s.sink} is ${s.state}`).join(", ") : `${count(status.sinks.length, "sink")} up`,
    letters ? count(letters, "dead letter") : "",
  ].filter(Boolean).join(" · "));
  document.title = `${troubled.length || !status.ready ? "■ " : ""}fnbridge`;
  set(figures.accepted.note, status.last_accepted_at ? `last one ${ago(status.last_accepted_at)}` : "none yet");
  if (stored) showJournal(status);
  else {
    value(figures.journal, whole(status.webhooks), "under way");
    set(figures.journal.note, `${bytes(status.bytes)}. Nothing is stored here: a webhook is answered when its sinks have it.`);
  }
  for (const s of status.sinks) showSink(s, stored);
  for (const s of Object.values(sinks)) s.element.hidden = !status.sinks.some((one) => one.sink === s.name);
  showAttention(status);
  byId("letter-count").hidden = letters === 0;
  set(byId("letter-count"), whole(letters));
  byId("tab-letters").hidden = !stored;
  if (state.letters !== letters && state.view === "letters") showLetters();
  state.letters = letters;
  if (first) showEmpty();
  for (const row of byId("live-rows").children) showFates(row);
}

function showJournal(status) {
  value(figures.journal, bytes(status.journal_bytes), `of ${bytes(status.journal_max_bytes)}`);
  const share = (n) => `${Math.min(100, 100 * n / status.journal_max_bytes).toFixed(1)}%`;
  figures.journal.waiting.style.width = share(status.waiting_bytes + status.dead_letter_bytes);
  figures.journal.kept.style.width = share(status.kept_bytes);
  const now = Date.now() / 1000;
  const held = status.waiting_bytes + status.dead_letter_bytes;
  state.waiting.push([now, held]);
  while (state.waiting[0][0] < now - 300) state.waiting.shift();
  const [began, before] = state.waiting[0];
  const growth = now - began >= 10 ? (held - before) / (now - began) : 0;
  let left = status.waiting_webhooks ? "what waits does not grow" : "what is kept makes room";
  const seconds = (status.journal_max_bytes - held) / growth;
  if (growth > 1) left = seconds < 86400 * 14 ? `full in ${duration(seconds)} at this rate` : "what waits grows slowly";
  set(figures.journal.note, `${whole(status.waiting_webhooks)} waiting, ${whole(status.kept_webhooks)} kept; ${left}`);
}

// Live

// sinkNames are those whose standing a row shows.
const sinkNames = () => (state.status?.sinks ?? []).filter((s) => s.configured !== false).map((s) => s.sink);

function row(a) {
  const kind = a.result === "accepted" || a.result === "duplicate" ? a.result : "refused";
  const title = a.type ? [a.type, a.subject ?? a.webhook_id] : [a.webhook_id || "no id", a.detail ?? ""];
  const what = title.map((t) => { const e = foreign(t, 160); e.classList.add("two"); return e; });
  const fates = el("td", {});
  const r = el("tr", {}, el("td", {}, clock(a.at)),
    el("td", {}, el("span", { class: "result", "data-result": kind }, words(a.result)), kind === "refused" ? el("span", { class: "two" }, String(a.status)) : null),
    el("td", {}, a.number ? el("button", { class: "open", onclick: (e) => { location.hash = `webhook=${a.number}`; state.opener = e.currentTarget; } }, ...what) : el("span", {}, ...what)),
    el("td", { class: "number" }, a.events ? whole(a.events) : "–"),
    el("td", { class: "number" }, a.bytes ? bytes(a.bytes) : "–"), fates);
  r.number = a.number ?? 0;
  r.fates = fates;
  if (r.number && r.number === state.opened) r.classList.add("selected");
  showFates(r);
  return r;
}

// showFates says which sinks are done with a webhook. Dead letters count as done: the detail tells.
function showFates(r) {
  if (!state.status || r.settled) return;
  const stored = state.status.ack === "journal";
  if (!r.number) { r.settled = true; return; }
  const all = sinkNames().map((name) => {
    const s = state.status.sinks.find((one) => one.sink === name);
    const done = !stored || Math.max(s.cursor, state.cursors[name] ?? 0) >= r.number;
    return [name, done];
  });
  const text = JSON.stringify(all);
  if (r.shownFates === text) return;
  r.shownFates = text;
  r.settled = all.length > 0 && all.every(([, done]) => done);
  r.fates.replaceChildren(...all.map(([name, done]) => el("span", { class: "at", "data-fate": done ? "done" : "waiting", title: done ? "done" : "waits" }, name, el("span", { class: "unseen" }, done ? " is done with it" : " waits for it"))));
}

// keyOf tells requests apart.
const keyOf = (a) => a.number || `${a.at} ${a.result} ${a.webhook_id}`;

function arrived(list) {
  if (state.meanwhile) {
    state.meanwhile.push(...list);
    return;
  }
  const fresh = list.filter((a) => !state.known.has(keyOf(a)));
  for (const a of fresh) state.known.add(keyOf(a));
  if (state.known.size > 20 * rows) state.known = new Set([...state.known].slice(-2 * rows));
  if (state.paused) {
    state.held = [...state.held, ...fresh].slice(-rows);
    state.missed += fresh.length;
    set(byId("held"), `${count(state.missed, "request")} since; they are shown when you go on`);
    return;
  }
  const body = byId("live-rows");
  body.prepend(...fresh.map(row).reverse());
  while (body.children.length > rows) body.lastElementChild.remove();
  showEmpty();
}

function showEmpty() {
  const none = byId("live-rows").children.length === 0;
  byId("live-table").hidden = none;
  const e = byId("live-empty");
  e.hidden = !none;
  if (none && !e.firstChild) {
    e.append(el("strong", {}, "No webhook has come yet."), "Send a first one, signed as Tensorlake signs, from a terminal on this machine:",
      command("fnbridge send"), el("p", {}, "For Tensorlake's own, give its endpoint this bridge's public address and /webhooks/tensorlake, or FNBRIDGE_PATH, and this bridge its signing secret in FNBRIDGE_WEBHOOK_SECRETS."));
  }
}

function pause() {
  state.paused = !state.paused;
  byId("pause").setAttribute("aria-pressed", String(state.paused));
  set(byId("pause"), state.paused ? "Go on" : "Pause");
  if (!state.paused) {
    const held = state.held;
    state.held = [];
    const body = byId("live-rows");
    body.prepend(...held.map(row).reverse());
    while (body.children.length > rows) body.lastElementChild.remove();
    showEmpty();
  }
  state.missed = 0;
  set(byId("held"), state.paused ? "Paused" : "");
}

// Fates in words

const fateWords = {
  acknowledged: "acknowledged", waiting: "waiting", dead_letter: "dead letter", dropped: "dropped dead letter",
  not_known: "not known: this sink is not required", not_wanted: "not wanted by its routes", before_sink: "came before this sink was there", sink_absent: "came while this sink was not configured",
};

function standing(s) {
  return Object.entries(s.events).map(([fate, n]) => el("span", { class: "at", "data-fate": fate },
    `${fateWords[fate] ?? fate}${n > 1 ? ` (${whole(n)})` : ""}${fate === "waiting" && s.webhooks_ahead ? `, behind ${count(s.webhooks_ahead, "webhook")}` : ""}`));
}

// Find

async function find(what, as, before) {
  const said = byId("find-said");
  byId("find-more").hidden = true;
  if (!before) byId("found").replaceChildren();
  if (!what) {
    set(said, "Give the id of a request, invocation, sandbox, webhook or event, or text of a payload.");
    return;
  }
  set(said, "Searching the journal …");
  const search = (state.search = {});
  try {
    const query = new URLSearchParams({ [as]: what, ...(before ? { before } : {}) });
    const found = await ask(`/api/find?${query}`);
    if (state.search !== search) return;
    byId("found").append(...found.webhooks.map(foundItem));
    const n = byId("found").children.length;
    set(said, [n ? `${count(n, "webhook")} found` : "Nothing found. Webhooks stay for FNBRIDGE_RETENTION once every sink has them; look at the spelling, or search for text.",
      found.ended ? "" : "the time was up before all was searched", `${found.seconds.toFixed(2)} s`].filter(Boolean).join(" · "));
    byId("find-more").hidden = !found.more;
    byId("find-more").onclick = () => find(what, as, found.before);
  } catch (e) {
    if (state.search === search) set(said, visible(e.message));
  }
}

function foundItem(w) {
  const first = w.events?.[0];
  return el("li", {},
    el("button", { class: "open", onclick: (e) => { state.opener = e.currentTarget; open(w.number); } },
      foreign(first ? first.type : "no event", 160), first?.subject ? el("span", { class: "quiet" }, "  ", foreign(first.subject, 160)) : null),
    el("p", { class: "quiet" }, `received ${moment(w.received_at)} (${ago(w.received_at)}) as `, foreign(w.webhook_id, 120), `, ${count(w.event_count, "event")}`),
    ...(w.sinks ?? []).map((s) => el("p", {}, `${s.sink}: `, ...standing(s))));
}

// Dead letters

async function showLetters() {
  const said = byId("letters-said");
  try {
    const { groups, all_groups } = await ask("/api/dead-letters");
    set(said, groups.length ? `${count(all_groups, "reason")}${all_groups > groups.length ? `, the first ${groups.length} shown` : ""}. Mend the cause, then retry; the commands run where the data directory is.`
      : "No dead letters. An event that a broker can never store, such as one that is too large, would be kept here with its reason.");
    byId("letter-groups").replaceChildren(...groups.map((g) => el("li", { class: "group" },
      el("p", { class: "reason" }, el("b", {}, whole(g.dead_letters)), " × ", foreign(g.reason, 400)),
      el("p", { class: "quiet" }, `sink ${g.sink}, ${g.dead_letters > 1 ? `first ${ago(g.first_at)}, ` : ""}last tried ${ago(g.last_at)}`),
      g.newest ? el("p", { class: "quiet" }, "Newest: ", foreign(g.newest.type, 120), " ", foreign(g.newest.subject ?? "", 120), `, ${count(g.newest.attempts, "try").replace("trys", "tries")}, of webhook `,
        el("a", { href: `#find=${encodeURIComponent(g.newest.webhook_id)}` }, foreign(g.newest.webhook_id, 80)), `, dead letter ${g.newest.id}`) : null,
      command(g.retry), command(g.drop))));
  } catch (e) {
    set(said, visible(e.message));
  }
}

// One webhook

async function open(number) {
  const d = byId("detail");
  state.opened = number;
  for (const r of byId("live-rows").children) r.classList.toggle("selected", r.number === number && number > 0);
  if (!number) {
    d.hidden = true;
    document.querySelector("main").classList.remove("open");
    state.opener?.focus();
    state.opener = null;
    return;
  }
  let shown;
  try {
    shown = detail(await ask(`/api/webhooks/${number}`));
  } catch (e) {
    shown = [el("p", {}, visible(e.message))];
  }
  if (state.opened !== number) return;
  const title = el("h2", { id: "detail-title", tabindex: "-1" }, `Webhook ${number}`);
  d.replaceChildren(el("div", { class: "top" }, title,
    el("button", { class: "small", onclick: () => copy(`${location.origin}/#webhook=${number}`, "Link copied") }, "Copy link"),
    el("button", { class: "small", onclick: close }, "Close")), ...shown);
  d.hidden = false;
  document.querySelector("main").classList.add("open");
  title.focus();
}

function close() {
  if (location.hash.startsWith("#webhook=")) history.replaceState(null, "", location.pathname);
  open(0);
}

const pair = (name, v) => (v === undefined || v === "" ? [] : [el("dt", {}, name), el("dd", {}, v instanceof Node ? v : foreign(v, 20000))]);

function detail(w) {
  const events = (w.events ?? []).map((e, i) => el("details", { open: i === 0 && w.events.length === 1 },
    el("summary", {}, foreign(e.type, 160), " ", el("span", { class: "quiet" }, foreign(e.subject ?? "", 160))),
    el("dl", {}, ...pair("ce-id", e.event_id), ...pair("ce-source", e.source), ...pair("ce-type", e.type), ...pair("ce-subject", e.subject),
      ...pair("ce-time", e.time), ...pair("ce-partitionkey", e.partition_key), ...pair("ce-sequence", e.sequence), ...pair("ce-sourceid", e.source_id), ...pair("ce-webhookid", w.webhook_id)),
    ...(e.sinks ?? []).map((s) => el("dl", {}, el("dt", {}, s.sink), el("dd", {}, el("span", { class: "at", "data-fate": s.fate }, fateWords[s.fate] ?? s.fate)),
      ...pair("address", s.address), ...pair("key", s.key),
      ...(s.dead_letter ? [...pair("dead letter", String(s.dead_letter.id)), ...pair("reason", s.dead_letter.reason)] : []))),
    ...(e.sinks ?? []).filter((s) => s.fate === "dead_letter").flatMap((s) => [command(`fnbridge dead-letters retry ${s.dead_letter.id}`), command(`fnbridge dead-letters drop ${s.dead_letter.id}`)])));
  return [
    el("dl", {}, ...pair("id", w.webhook_id), ...pair("received", `${moment(w.received_at)} (${ago(w.received_at)})`), ...pair("signed", moment(w.signed_at)),
      ...pair("payload", `${w.shape ?? "no JSON object"}, ${bytes(w.bytes)}`)),
    el("h3", {}, "Where it stands"),
    ...((w.sinks ?? []).length ? w.sinks.map((s) => el("div", { class: "sinkline" }, el("strong", {}, s.sink), " ", ...standing(s), s.may_be_missing ? " — the broker went back, and may have lost it" : "")) : [el("p", { class: "quiet" }, "No sink knows of it.")]),
    el("h3", {}, w.event_count > events.length ? `The first ${events.length} of ${whole(w.event_count)} events` : count(w.event_count, "event")), ...events,
    el("h3", {}, w.body_cut ? "Payload, its beginning" : "Payload"), el("pre", { tabindex: "0", "aria-label": "Payload" }, visible(pretty(w.body))),
  ];
}

function pretty(text) {
  try {
    // Numbers that JavaScript cannot hold would be changed: then the text stays as it is.
    const laid = JSON.stringify(JSON.parse(text), null, 2);
    return laid.replace(/\s/g, "") === text.replace(/\s/g, "") ? laid : text;
  } catch {
    return text;
  }
}

// Views and links

function view(name) {
  state.view = name;
  for (const one of ["live", "find", "letters"]) {
    byId(one).hidden = one !== name;
    byId(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    byId(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "letters") showLetters();
}

function follow() {
  const hash = location.hash.slice(1);
  const [key, ...rest] = hash.split("=");
  let text = "";
  try { text = decodeURIComponent(rest.join("=")); } catch { /* a link that somebody broke */ }
  if (key === "webhook") open(Number(text) || 0);
  else if (key === "find" || key === "text") {
    view("find");
    byId("find-what").value = text;
    byId("find-as").value = key === "find" ? "id" : "text";
    find(text, key === "find" ? "id" : "text");
  } else if (key === "dead-letters") view("letters");
  else if (key === "live" || key === "") view(key === "" ? state.view : "live");
}

byId("find-form").addEventListener("submit", (e) => {
  e.preventDefault();
  const key = byId("find-as").value === "id" ? "find" : "text";
  const hash = `#${key}=${encodeURIComponent(byId("find-what").value.trim())}`;
  if (location.hash === hash) follow();
  else location.hash = hash;
});
byId("find-link").addEventListener("click", () => copy(`${location.origin}/#${byId("find-as").value === "id" ? "find" : "text"}=${encodeURIComponent(byId("find-what").value.trim())}`, "Link copied"));
byId("pause").addEventListener("click", pause);
for (const name of ["live", "find", "letters"]) {
  byId(`tab-${name}`).addEventListener("click", () => {
    view(name);
    history.replaceState(null, "", { live: "#live", letters: "#dead-letters", find: location.hash.startsWith("#find=") ? location.hash : "#find=" + encodeURIComponent(byId("find-what").value) }[name]);
  });
}
document.querySelector("[role=tablist]").addEventListener("keydown", (e) => {
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((t) => !t.hidden);
  const at = tabs.indexOf(document.activeElement);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[e.key];
  if (next === undefined) return;
  e.preventDefault();
  const tab = tabs[(next + tabs.length) % tabs.length];
  tab.focus();
  tab.click();
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && state.opened) close();
  if (e.key === "/" && !["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName)) {
    e.preventDefault();
    byId("tab-find").click();
    byId("find-what").focus();
  }
});
addEventListener("hashchange", follow);

// The stream

function connection(name, text) {
  const e = byId("connection");
  e.dataset.state = name;
  set(e, text);
}

async function catchUp() {
  state.meanwhile = []; // what the stream tells while the rest is on its way
  const [series, recent] = await Promise.all([ask("/api/series"), ask(`/api/webhooks?limit=${rows}`)]);
  state.columns = series.columns;
  state.seconds = series.seconds;
  showRates();
  byId("live-rows").replaceChildren();
  state.known = new Set();
  const meanwhile = state.meanwhile;
  state.meanwhile = null;
  arrived(recent.webhooks.reverse());
  arrived(meanwhile);
}

function second(s) {
  for (const name of Object.keys(s.columns)) state.columns[name] ??= new Array(state.seconds).fill(0);
  state.seconds = Math.min(span, state.seconds + 1);
  for (const [name, figuresOf] of Object.entries(state.columns)) {
    figuresOf.push(s.columns[name] ?? 0);
    while (figuresOf.length > state.seconds) figuresOf.shift();
  }
  if (!document.hidden) showRates();
}

function connect() {
  const stream = new EventSource(`${location.origin}/api/events`);
  stream.onopen = () => {
    connection("live", "live");
    catchUp().catch((e) => connection("away", visible(e.message)));
  };
  stream.addEventListener("status", (e) => showStatus(JSON.parse(e.data)));
  stream.addEventListener("cursors", (e) => {
    state.cursors = JSON.parse(e.data);
    for (const r of byId("live-rows").children) showFates(r);
  });
  stream.addEventListener("second", (e) => second(JSON.parse(e.data)));
  stream.addEventListener("webhooks", (e) => arrived(JSON.parse(e.data)));
  stream.onerror = () => {
    connection("away", "not connected, trying again");
    if (stream.readyState === EventSource.CLOSED) { // it was refused
      stream.close();
      setTimeout(connect, 5000);
    }
  };
}

figure("accepted", "Accepted", " ");
figure("refused", "Refused", "bad");
figure("duplicates", "Duplicates", " ");
const journal = figure("journal", "Journal");
journal.waiting = el("span", { class: "waiting" });
journal.kept = el("span", { class: "kept" });
journal.element.append(el("div", { class: "meter", "aria-hidden": "true" }, journal.waiting, journal.kept));
showRates();
view("live");
follow();
connect();
