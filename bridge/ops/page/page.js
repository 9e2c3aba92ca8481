// The live page: it shows what /api/ tells, and changes nothing.
import { ago, byId, bytes, clock, command, copy, count, duration, el, foreign, moment, rate, set, visible, whole } from "./dom.js";
import { draw, newChart } from "./chart.js";

const span = 900; // seconds that charts go back
const rows = 100; // of Live
const silence = 15000; // milliseconds: a stream says something each second
const state = {
  status: null,
  columns: {}, // figures by name, oldest first
  seconds: 0,
  cursors: {}, // by sink
  letters: {}, // by sink and number: dead_letter or dropped
  waiting: [], // [time, bytes that wait], for the time left
  paused: false, held: [], meanwhile: null,
  newest: {}, shown: {}, // the numbers of the newest requests that are known, and on show
  torn: false, // the connection was lost while Live is paused
  view: "live", opened: 0, opener: null, webhook: null,
  stream: null, heard: Date.now(), // when it last said something
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

// showAttention lists what the configuration, a file or a broker has that may cost events, and how full brokers are; of
// one that fills up there is a warning, too.
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
  byId("now").classList.remove("old");
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
  byId("tab-letters").hidden = byId("tab-find").hidden = !stored;
  if (first) view(state.view);
  if (state.lettersThen !== letters && state.view === "letters") showLetters();
  state.lettersThen = letters;
  for (const row of byId("live-rows").children) showFates(row);
  if (first) {
    showEmpty();
    if (location.hash) byId("views").scrollIntoView(); // who follows a link wants what it leads to
  }
  lookAgain();
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
  let left = !status.waiting_webhooks ? "what is kept makes room" : now - began < 10 ? "growth is being measured" : "what waits does not grow";
  const seconds = (status.journal_max_bytes - held) / growth;
  if (growth > 1) left = seconds < 86400 * 14 ? `full in ${duration(seconds)} at this rate` : "what waits grows slowly";
  const letters = status.dead_letter_bytes ? `${bytes(status.dead_letter_bytes)} of dead letters, ` : "";
  set(figures.journal.note, `${bytes(status.waiting_bytes)} wait, ${letters}${bytes(status.kept_bytes)} kept; files ${bytes(status.journal_files_bytes)}; ${left}`);
}

// Live

// sinkNames are those whose standing a row shows. Without a journal nobody knows of those that are not required.
const sinkNames = () => (state.status?.sinks ?? []).filter((s) => s.configured !== false && s.required !== false).map((s) => s.sink);

function row(a) {
  const kind = a.result === "accepted" || a.result === "duplicate" ? a.result : "refused";
  const title = a.type ? [a.type, a.subject ?? a.webhook_id] : [a.webhook_id || "no id", a.detail ?? ""];
  const what = title.map((t) => { const e = foreign(t, a.number ? 160 : 400); e.classList.add("two"); return e; });
  const fates = el("td", {});
  const r = el("tr", { class: a.number ? "" : "whole" }, el("td", {}, clock(a.at)),
    el("td", {}, el("span", { class: "result", "data-result": kind }, words(a.result)), kind === "refused" ? el("span", { class: "two" }, String(a.status)) : null),
    el("td", {}, a.number ? el("button", { class: "open", onclick: (e) => go(a.number, e.currentTarget) }, ...what) : el("span", {}, ...what)),
    el("td", { class: "number" }, a.events ? whole(a.events) : "–"),
    el("td", { class: "number" }, a.bytes ? bytes(a.bytes) : "–"), fates);
  r.number = a.number ?? 0;
  r.fates = fates;
  if (r.number && r.number === state.opened) r.classList.add("selected");
  showFates(r);
  return r;
}

const standings = { done: "is done with it", waiting: "waits for it", dead_letter: "has a dead letter of it", dropped: "had a dead letter of it, which was dropped" };

// showFates says how far sinks are with a webhook.
function showFates(r) {
  if (!state.status || !r.number) return;
  const stored = state.status.ack === "journal";
  const all = sinkNames().map((name) => {
    const s = state.status.sinks.find((one) => one.sink === name);
    const done = !stored || Math.max(s.cursor, state.cursors[name] ?? 0) >= r.number;
    return [name, state.letters[name]?.[r.number] ?? (done ? "done" : "waiting")];
  });
  const text = JSON.stringify(all);
  if (r.shownFates === text) return;
  r.shownFates = text;
  r.fates.replaceChildren(...all.map(([name, fate]) => el("span", { class: "at", "data-fate": fate, title: standings[fate] }, name, el("span", { class: "unseen" }, ` ${standings[fate]}`))));
}

// Requests are numbered: those that the journal has, and apart from them the others. So it is known which are new, and
// how many were left out of what was told.
const kindOf = (a) => (a.order ? "order" : "number");
const behind = () => Object.keys(state.newest).reduce((n, kind) => n + state.newest[kind] - state.shown[kind], 0);

function arrived(list) {
  if (state.meanwhile) {
    state.meanwhile.push(...list);
    return;
  }
  const fresh = list.filter((a) => a[kindOf(a)] > (state.newest[kindOf(a)] ?? 0));
  for (const kind of ["number", "order"]) {
    const all = fresh.filter((a) => kindOf(a) === kind).map((a) => a[kind]);
    if (all.length === 0) continue;
    state.newest[kind] = Math.max(...all);
    state.shown[kind] ??= state.newest[kind] - all.length;
  }
  state.held = [...state.held, ...fresh].slice(-rows);
  if (!state.paused) return showHeld();
  const n = behind();
  if (n) set(byId("held"), `${count(n, "request")} since; ${n > state.held.length ? `the newest ${state.held.length}` : "they"} are shown when you go on`);
}

function showHeld() {
  const left = behind() - state.held.length;
  const body = byId("live-rows");
  if (left > 0) body.prepend(el("tr", { class: "quiet" }, el("td", {}, `… ${whole(left)} more`), ...Array.from({ length: 5 }, () => el("td", {}))));
  body.prepend(...state.held.map(row).reverse());
  while (body.children.length > rows) body.lastElementChild.remove();
  state.held = [];
  state.shown = { ...state.newest };
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
  set(byId("held"), state.paused ? "Paused" : "");
  if (state.paused) return;
  if (state.torn) catchUp();
  else showHeld();
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
  const search = (state.search = { again: () => find(what, as) });
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
    lookAgain(anything);
  } catch (e) {
    if (state.search !== search) return;
    set(said, visible(e.message));
    state.sought = null;
    search.failed = !before;
    byId("find-more").hidden = !before;
  }
}

function foundItem(w) {
  const first = w.events?.[0];
  const item = el("li", {},
    el("button", { class: "open", onclick: (e) => go(w.number, e.currentTarget) },
      foreign(first ? first.type : "no event", 160), first?.subject ? el("span", { class: "quiet" }, "  ", foreign(first.subject, 160)) : null),
    el("p", { class: "quiet" }, `received ${moment(w.received_at)} (${ago(w.received_at)}) as `, foreign(w.webhook_id, 120), `, ${count(w.event_count, "event")}`),
    ...(w.sinks ?? []).map((s) => el("p", {}, `${s.sink}: `, ...standing(s))));
  item.webhook = w;
  return item;
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

const narrow = matchMedia("(max-width: 64rem)"); // as in page.css
// cover keeps the keyboard out of what an opened webhook lies over.
function cover() {
  for (const e of document.querySelectorAll(".skip, header, #now, #views")) e.inert = narrow.matches && !byId("detail").hidden;
}
narrow.addEventListener("change", cover);

async function open(number) {
  const d = byId("detail");
  const before = state.opened;
  const inside = d.contains(document.activeElement) || document.activeElement === document.body;
  state.opened = number;
  state.webhook = null;
  for (const r of byId("live-rows").children) r.classList.toggle("selected", r.number === number && number > 0);
  if (number) {
    if (await load(number)) byId("detail-title").focus();
    return;
  }
  d.hidden = true;
  document.querySelector("main").classList.remove("open");
  cover();
  const of = [...byId("live-rows").children].find((r) => r.number === before && before);
  const back = [state.opener, of?.querySelector("button"), byId(`tab-${state.view}`)].find((e) => e?.getClientRects().length);
  if (inside && before) back?.focus();
  state.opener = null;
}

// load shows a webhook, and tells whether it is still the one that is open.
async function load(number) {
  let shown;
  let webhook = null;
  try {
    webhook = await ask(`/api/webhooks/${number}`);
    shown = detail(webhook);
  } catch (e) {
    shown = [el("p", {}, visible(e.message))];
  }
  if (state.opened !== number) return false;
  state.webhook = webhook;
  const d = byId("detail");
  // Without a journal each process counts from 1: a link would lead elsewhere.
  const link = state.status?.ack === "sinks" ? null : el("button", { class: "small", onclick: () => copy(`${location.origin}/#webhook=${number}`, "Link copied") }, "Copy link");
  d.replaceChildren(el("div", { class: "top" }, el("h2", { id: "detail-title", tabindex: "-1" }, `Webhook ${number}`), link,
    el("button", { class: "small", onclick: close }, "Close")), ...shown);
  d.hidden = false;
  document.querySelector("main").classList.add("open");
  cover();
  lookAgain(anything);
  return true;
}

// go opens a webhook so that the browser's Back closes it.
function go(number, opener) {
  state.opener = opener;
  history[state.opened ? "replaceState" : "pushState"](state.opened ? history.state : { ours: true }, "", `#webhook=${number}`);
  open(number);
}

function close() {
  open(0);
  if (history.state?.ours) history.back();
  else if (location.hash.startsWith("#webhook=")) history.replaceState(null, "", state.view === "live" ? location.pathname : linkTo(state.view));
}

const pair = (name, v) => (v === undefined || v === "" ? [] : [el("dt", {}, name), el("dd", {}, v instanceof Node ? v : foreign(v, 20000))]);

function detail(w) {
  return [
    el("dl", {}, ...pair("id", w.webhook_id), ...pair("received", `${moment(w.received_at)} (${ago(w.received_at)})`), ...pair("signed", moment(w.signed_at)),
      ...pair("payload", `${w.shape ?? "no JSON object"}, ${bytes(w.bytes)}`)),
    becameOf(w),
    el("h3", {}, w.body_cut ? "Payload, its beginning" : "Payload"), el("pre", { tabindex: "0", "aria-label": "Payload" }, visible(pretty(w.body))),
  ];
}

function becameOf(w) {
  const events = (w.events ?? []).map((e, i) => el("details", { open: i === 0 && w.events.length === 1 },
    el("summary", {}, foreign(e.type, 160), " ", el("span", { class: "quiet" }, foreign(e.subject ?? "", 160))),
    el("dl", {}, ...pair("ce-id", e.event_id), ...pair("ce-source", e.source), ...pair("ce-type", e.type), ...pair("ce-subject", e.subject),
      ...pair("ce-time", e.time), ...pair("ce-partitionkey", e.partition_key), ...pair("ce-sequence", e.sequence), ...pair("ce-sourceid", e.source_id), ...pair("ce-webhookid", w.webhook_id)),
    ...(e.sinks ?? []).map((s) => el("dl", {}, el("dt", {}, s.sink), el("dd", {}, el("span", { class: "at", "data-fate": s.fate }, fateWords[s.fate] ?? s.fate)),
      ...pair("address", s.address), ...pair("key", s.key),
      ...(s.dead_letter ? [...pair("dead letter", String(s.dead_letter.id)), ...pair("reason", s.dead_letter.reason)] : []))),
    ...(e.sinks ?? []).filter((s) => s.fate === "dead_letter").flatMap((s) => [command(`fnbridge dead-letters retry ${s.dead_letter.id}`), command(`fnbridge dead-letters drop ${s.dead_letter.id}`)])));
  return el("div", { id: "became" }, el("h3", {}, "Where it stands"),
    ...((w.sinks ?? []).length ? w.sinks.map((s) => el("div", { class: "sinkline" }, el("strong", {}, s.sink), " ", ...standing(s), s.may_be_missing ? " — the broker went back, and may have lost it" : "")) : [el("p", { class: "quiet" }, "No sink knows of it.")]),
    el("h3", {}, w.event_count > events.length ? `The first ${events.length} of ${whole(w.event_count)} events` : count(w.event_count, "event")), ...events);
}

// What waits and is looked at is asked for again once something has moved, at most once a second; a dead letter once
// their number is another.

const anything = ["waiting", "dead_letter"];
const again = new Set(); // fates that may be others by now
let asking = false;

function lookAgain(fates = []) {
  const sinksNow = state.status?.sinks ?? [];
  const moved = JSON.stringify([state.cursors, sinksNow.map((s) => [s.cursor, s.backlog_webhooks])]);
  const letters = JSON.stringify(sinksNow.map((s) => s.dead_letters));
  if (moved !== state.moved) again.add("waiting");
  if (letters !== state.counted) fates = anything;
  state.moved = moved;
  state.counted = letters;
  for (const f of fates) again.add(f);
  if (!asking && again.size && !document.hidden) {
    asking = true;
    setTimeout(askAgain, 1000);
  }
}

async function askAgain() {
  const fates = [...again];
  again.clear();
  const news = async (w) => {
    if (!w?.sinks?.some((s) => fates.some((f) => s.events[f]))) return null;
    const now = await ask(`/api/webhooks/${w.number}`).catch(() => null); // once connected, all is asked for again
    return now && JSON.stringify([w.sinks, w.events]) !== JSON.stringify([now.sinks, now.events]) ? now : null;
  };
  const w = state.webhook;
  const now = await news(w);
  if (now && state.webhook === w) {
    state.webhook = now;
    exchange(byId("became"), becameOf(now));
  }
  for (const item of state.view === "find" ? byId("found").querySelectorAll("li") : []) {
    const found = await news(item.webhook);
    if (found && item.isConnected) exchange(item, foundItem(found));
  }
  asking = false;
  lookAgain();
}

// exchange puts an element in the place of an older one that is like it. What was unfolded stays so, and so does the
// focus.
function exchange(old, now) {
  const unfolded = [...old.querySelectorAll("details")].map((d) => d.open);
  now.querySelectorAll("details").forEach((d, i) => { d.open = unfolded[i] ?? d.open; });
  const places = (e) => [...e.querySelectorAll("button, summary, code")];
  const focus = places(old).indexOf(document.activeElement);
  const opener = places(old).indexOf(state.opener);
  old.replaceWith(now);
  if (focus >= 0) places(now)[focus]?.focus({ preventScroll: true });
  if (opener >= 0) state.opener = places(now)[opener];
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
  if (state.status?.ack === "sinks") name = "live"; // nothing is stored
  state.view = name;
  for (const one of ["live", "find", "letters"]) {
    byId(one).hidden = one !== name;
    byId(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    byId(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "letters") showLetters();
  if (name === "find") lookAgain(anything);
}

const findLink = () => `#${byId("find-as").value === "id" ? "find" : "text"}=${encodeURIComponent(byId("find-what").value.trim())}`;
const linkTo = (name) => ({ live: "#live", letters: "#dead-letters", find: findLink() })[name];

function follow() {
  const hash = location.hash.slice(1);
  const [key, ...rest] = hash.split("=");
  let text = "";
  try { text = decodeURIComponent(rest.join("=")); } catch { /* a link that somebody broke */ }
  const number = key === "webhook" ? Number(text) || 0 : 0;
  if (number !== state.opened && key !== "views") open(number);
  if (key === "find" || key === "text") {
    view("find");
    byId("find-what").value = text;
    byId("find-as").value = key === "find" ? "id" : "text";
    if (state.sought !== hash) find(text, byId("find-as").value); // Back to what was found has it still
    state.sought = hash;
  } else if (key === "dead-letters") view("letters");
  else if (key === "live" || key === "") view(key === "" ? state.view : "live");
}

byId("find-form").addEventListener("submit", (e) => {
  e.preventDefault();
  state.sought = null;
  if (location.hash === findLink()) follow();
  else location.hash = findLink();
});
byId("find-link").addEventListener("click", () => copy(`${location.origin}/${findLink()}`, "Link copied"));
byId("pause").addEventListener("click", pause);
for (const name of ["live", "find", "letters"]) {
  byId(`tab-${name}`).addEventListener("click", () => {
    view(name);
    history.replaceState(null, "", linkTo(name));
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
  if (e.key === "/" && !byId("tab-find").hidden && !byId("views").inert && !["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName)) {
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

// lost says that what is shown is old.
function lost(text) {
  connection("away", text);
  set(byId("summary"), state.status ? `Not connected since ${clock(state.heard)}. What is below is from then` : "Not connected");
  document.title = "■ fnbridge";
  byId("now").classList.add("old");
}

async function catchUp() {
  const stream = state.stream;
  state.meanwhile = []; // what the stream tells while the rest is on its way
  try {
    const [series, recent] = await Promise.all([ask("/api/series"), ask(`/api/webhooks?limit=${rows}`)]);
    if (state.stream !== stream) return;
    state.columns = series.columns;
    state.seconds = series.seconds;
    showRates();
    state.torn = state.paused;
    if (!state.paused) {
      byId("live-rows").replaceChildren();
      Object.assign(state, { held: [], newest: {}, shown: {} }); // another process counts anew
    }
    const meanwhile = state.meanwhile;
    state.meanwhile = null;
    arrived(recent.webhooks.reverse());
    for (const [kind, n] of Object.entries({ number: recent.head, order: recent.order })) state.shown[kind] ??= state.newest[kind] ??= n;
    arrived(meanwhile);
    connection("live", "live");
  } catch (e) {
    if (state.stream !== stream) return;
    connection("away", visible(e.message));
    setTimeout(() => { if (state.stream === stream) catchUp(); }, 2000);
    return;
  }
  if (state.view === "letters") showLetters();
  if (state.search?.failed) state.search.again();
  if (state.opened && !state.webhook) load(state.opened);
  lookAgain(anything);
}

function second(s) {
  for (const name of Object.keys(s.columns)) state.columns[name] ??= new Array(state.seconds).fill(0);
  state.seconds = Math.min(span, state.seconds + 1);
  for (const [name, figuresOf] of Object.entries(state.columns)) {
    figuresOf.push(s.columns[name] ?? 0);
    while (figuresOf.length > state.seconds) figuresOf.shift();
  }
  showRates();
}

// A page that nobody sees keeps no stream: browsers open six connections to a host, for all its pages together.
function connect() {
  state.stream?.close();
  state.stream = null;
  if (document.hidden) return;
  const stream = (state.stream = new EventSource(`${location.origin}/api/events`));
  const on = (name, then) => stream.addEventListener(name, (e) => {
    state.heard = Date.now();
    then(JSON.parse(e.data));
  });
  stream.onopen = () => {
    state.heard = Date.now();
    catchUp();
  };
  on("status", showStatus);
  on("cursors", (cursors) => {
    state.cursors = cursors;
    for (const r of byId("live-rows").children) showFates(r);
    lookAgain();
  });
  on("letters", (letters) => {
    // Paused, it may show what is too old to be told of.
    for (const name of Object.keys(state.paused ? state.letters : {})) letters[name] = { ...state.letters[name], ...letters[name] };
    state.letters = letters;
    for (const r of byId("live-rows").children) showFates(r);
  });
  on("second", second);
  on("webhooks", arrived);
  stream.onerror = () => {
    lost("trying again");
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => { if (state.stream === stream) connect(); }, 5000); // it was refused
  };
}

document.addEventListener("visibilitychange", connect);
setInterval(() => {
  // The title is seen even where the page is not.
  if (document.hidden) ask("/api/status").then((s) => { state.heard = Date.now(); showStatus(s); }, () => lost("trying again"));
  else if (Date.now() - state.heard > silence) {
    lost("trying again");
    connect();
  }
}, silence);

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
