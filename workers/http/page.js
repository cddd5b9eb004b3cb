"use strict";
// The page that shows the service. It asks for the newest samples once a second and draws them.
// What comes from the service is put into the page as text, never as HTML.

const WINDOWS_MS = [60_000, 120_000, 300_000];
const KEPT_MS = WINDOWS_MS[WINDOWS_MS.length - 1];
const POLL_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 5000 : 1000;
const byId = (id) => document.getElementById(id);

// --- Charts: lines or stacks over the last minutes, as SVG. ---

const SVG = "http://www.w3.org/2000/svg";
const fontPx = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

// How much of the past is shown: no more than there is, so that a young service has a full picture.
function span(samples, now) {
  const there = samples.length ? now - samples[0].t : 0;
  return WINDOWS_MS.find((each) => there <= each) ?? KEPT_MS;
}

function draw(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function niceTop(value) { // the least of 1, 2, 4, 6, 8, 10, 20, ... that is not less: halves are nice, too
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((each) => each * power).find((each) => each >= value * 0.999);
}

// Maps values to 0..1 upwards, and says where the lines of the grid are.
function linearScale(values, from) {
  const low = from === undefined ? 0 : from;
  const top = low + niceTop(Math.max(...values.map((each) => each - low), 1));
  return { ticks: [low, (low + top) / 2, top], place: (value) => (value - low) / (top - low) };
}

function logScale(values) {
  const seen = values.filter((each) => each > 0);
  const low = Math.floor(Math.log10(Math.min(...seen, 1)) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(Math.max(...seen, 0.001)) - 1e-9), low + 1);
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  return { ticks, place: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
}

class Chart {
  // `about` has a `title`, `names` of series, `values` of a sample, `shown` for a value, and may
  // have `kind`: "line" (default), "stack" or "log", and `grows`: the scale need not begin at 0.
  constructor(about) {
    this.about = about;
    this.figure = document.createElement("figure");
    this.figure.tabIndex = 0;
    this.caption = document.createElement("figcaption");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("role", "img");
    this.figure.append(this.caption, this.svg);
    this.at = null; // the index of the sample under the cursor, counted from the newest
    this.figure.addEventListener("pointermove", (event) => this.point(event));
    this.figure.addEventListener("pointerleave", () => this.move(null));
    this.figure.addEventListener("blur", () => this.move(null));
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.samples = [];
    this.events = [];
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const time = this.now - span(this.samples, this.now) * (1 - (event.clientX - box.left) / box.width);
    const distances = this.samples.map((sample) => Math.abs(sample.t - time));
    if (distances.length) this.move(this.samples.length - 1 - distances.indexOf(Math.min(...distances)));
  }

  key(event) {
    const steps = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30 };
    if (event.key === "Escape") this.move(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const last = this.samples.length - 1;
    this.move(Math.min(Math.max((this.at ?? -1) + steps[event.key], 0), last));
  }

  move(at) {
    this.at = at;
    this.render();
  }

  show(samples, events, now) {
    Object.assign(this, { samples, events, now });
    this.render();
  }

  render() {
    if (!this.now) return;
    const { about, svg, samples } = this;
    const width = svg.clientWidth, height = svg.clientHeight;
    const names = about.names(samples);
    const rows = samples.map((sample) => about.values(sample));
    const shown = span(samples, this.now), font = fontPx(), top = 1.1 * font, floor = height - 1.4 * font;
    const x = (time) => 2 + (width - 4) * (1 - (this.now - time) / shown);
    const scale = this.scale(rows);
    const y = (value) => floor - (floor - top) * scale.place(value);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (const tick of scale.ticks) {
      draw(svg, "line", { class: "grid", x1: 0, x2: width, y1: y(tick), y2: y(tick) });
      draw(svg, "text", { x: 0, y: y(tick) - 3 }, about.shown(tick));
    }
    drawMoments(svg, x, this.now, height - 0.2 * font, shown);
    const below = rows.map(() => 0);
    names.forEach((_, place) => this.series(place, rows, below, x, y));
    for (const event of this.events) {
      if (event.t < this.now - shown) continue;
      const mark = draw(svg, "line", { class: `mark ${event.kind}`, x1: x(event.t), x2: x(event.t), y1: top, y2: floor });
      draw(mark, "title", {}, event.text);
    }
    const index = samples.length - 1 - (this.at ?? 0);
    if (this.at !== null && samples[index]) {
      const at = x(samples[index].t);
      draw(svg, "line", { class: "cursor", x1: at, x2: at, y1: top, y2: floor });
    }
    this.say(names, rows[index], samples[index]);
  }

  scale(rows) {
    const all = rows.flat().filter((each) => each !== null);
    if (this.about.kind === "log") return logScale(all);
    if (this.about.kind === "stack") return linearScale(rows.map((row) => row.reduce((a, b) => a + b, 0)));
    return linearScale(all, this.about.grows && all.length ? Math.min(...all) : undefined);
  }

  // Draws one series. What is null leaves a gap; a stack stands on `below`, and adds to it.
  series(place, rows, below, x, y) {
    const stack = this.about.kind === "stack";
    const pieces = [[]];
    rows.forEach((row, index) => {
      const value = row[place];
      if (value === null || value === undefined) return pieces.push([]);
      const foot = below[index];
      if (stack) below[index] += value;
      const points = [value + (stack ? foot : 0), foot].map((each) => y(each).toFixed(1));
      return pieces[pieces.length - 1].push([x(this.samples[index].t).toFixed(1), ...points]);
    });
    const along = (points, row) => points.map((point) => `${point[0]},${point[row]}`).join("L");
    const drawn = pieces.filter((piece) => piece.length);
    const line = drawn.map((piece) => `M${along(piece, 1)}`).join("");
    const area = drawn.map((piece) => `M${along(piece, 1)}L${along([...piece].reverse(), 2)}Z`).join("");
    draw(this.svg, "path", { class: `${stack ? "stack" : "line"} t${place % 6}`, d: stack ? area : line });
  }

  say(names, row, sample) {
    const parts = [element("b", this.about.title)];
    if (this.at !== null && sample) parts.push(element("span", clock(sample.t), "at"));
    names.forEach((name, place) => {
      const value = row ? row[place] : null;
      const shown = value === null || value === undefined ? "–" : this.about.shown(value);
      const key = element("span", `${name} `, `key t${place % 6}`);
      key.append(element("strong", shown));
      parts.push(key);
    });
    this.caption.replaceChildren(...parts);
    this.svg.setAttribute("aria-label", parts.map((part) => part.textContent).join(", "));
  }
}

function drawMoments(svg, x, now, y, shown) {
  const step = shown > 60_000 ? 60_000 : 15_000;
  const narrow = x(now) - x(now - shown) < 26 * fontPx();
  for (let ago = 0; ago <= shown; ago += step) {
    if (narrow && ago % shown) continue;
    const anchor = ago === 0 ? "end" : ago === shown ? "start" : "middle";
    const name = step === 60_000 ? `−${ago / 60_000} min` : `−${ago / 1000} s`;
    draw(svg, "text", { x: x(now - ago), y, "text-anchor": anchor }, ago ? name : "now");
  }
}

// The lanes of faults, restarts and backups.
const LANES = [["Faults", ["fault", "well"]], ["Restarts", ["restart"]], ["Backups", ["backup"]]];

function drawTimeline(events, now) {
  const figure = byId("timeline");
  const svg = document.createElementNS(SVG, "svg");
  figure.replaceChildren(element("figcaption", ""), svg);
  figure.firstChild.append(element("b", "Faults, restarts and backups"));
  const width = svg.clientWidth, height = svg.clientHeight, font = fontPx(), left = 5 * font;
  const shown = span(samples, now);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (time) => left + 8 + (width - left - 14) * (1 - (now - time) / shown);
  LANES.forEach(([name, kinds], lane) => {
    const y = font * 0.9 + (lane * (height - font * 2.6)) / (LANES.length - 1);
    draw(svg, "line", { class: "grid", x1: left, x2: width, y1: y, y2: y });
    draw(svg, "text", { x: 0, y: y + 4 }, name);
    for (const event of events) {
      if (!kinds.includes(event.kind) || event.t < now - shown) continue;
      const dot = draw(svg, "circle", { class: `dot ${event.kind}`, cx: x(event.t), cy: y, r: font / 3 });
      draw(dot, "title", {}, `${clock(event.t)} ${event.text}`);
    }
  });
  drawMoments(svg, x, now, height - 0.2 * font, shown);
}

// --- Texts. ---

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");
const number = (value) => (value < 10 ? String(Math.round(value * 10) / 10) : compact.format(Math.round(value)));
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

function duration(ms) {
  if (ms >= 1000) return `${Number((ms / 1000).toPrecision(2))} s`;
  return ms >= 0.1 ? `${Number(ms.toPrecision(2))} ms` : `${Math.round(ms * 1000)} µs`;
}

function uptime(seconds) {
  const days = Math.floor(seconds / 86_400), hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// --- What is on the board. ---

const rates = (sample) => sample.rates.slice(0, 3);
const charts = [
  { title: "Requests per second", names: () => ["saves", "reads", "counts"], values: rates, shown: number },
  { title: "Time of a save", names: () => ["50 %", "95 %", "99 %"], values: (each) => each.save_ms, shown: duration, kind: "log" },
  { title: "Time of a read", names: () => ["50 %", "95 %", "99 %"], values: (each) => each.read_ms, shown: duration, kind: "log" },
  { title: "Changes per commit", names: () => ["on average"], values: (each) => [each.batch], shown: number },
  { title: "Connections by worker", names: workers, values: (each) => each.connections, shown: number, kind: "stack" },
  { title: "Users in the book", names: () => ["users"], values: (each) => [each.users], shown: (value) => compact.format(value), grows: true },
].map((about) => new Chart(about));

function workers(samples) {
  const last = samples[samples.length - 1];
  return last ? last.connections.map((_, place) => `worker ${place + 1}`) : [];
}

let samples = [];
let asking = false;
let paused = false;
let told = null;

for (const chart of charts) byId("charts").append(chart.figure);

function showFigures(now) {
  const last = samples[samples.length - 1];
  if (!last) return;
  const open = last.connections.reduce((a, b) => a + b, 0);
  const time = last.save_ms[2] === null ? ["–", ""] : duration(last.save_ms[2]).split(" ");
  const figures = [
    ["Saves", number(last.rates[0]), "/ s", "t0"], ["Reads", number(last.rates[1]), "/ s", "t1"],
    ["Counts", number(last.rates[2]), "/ s", "t2"], ["99 % of saves in", ...time, ""],
    ["Connections", whole.format(open), "", ""], ["Users", now.users < 1e6 ? whole.format(now.users) : compact.format(now.users), "", ""],
  ];
  byId("figures").replaceChildren(...figures.map(([name, value, unit, tone]) => {
    const tile = element("div", "", tone);
    const shown = element("dd", value);
    if (unit) shown.append(element("small", unit));
    tile.append(element("dt", name), shown);
    return tile;
  }));
  document.title = `${now.troubles.length ? "▲" : "●"} pwserver ${number(last.rates[0])} saves/s`;
}

function showState(now) {
  byId("board").classList.toggle("ill", now.troubles.length > 0);
  say("state", now.troubles.length ? "Not well" : "All is well");
  say("uptime", `up ${uptime(now.uptime_s)}`);
  byId("troubles").replaceChildren(...now.troubles.map((each) => element("li", each)));
}

function say(id, text) { // only what changes, so that it is not read aloud each second
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showTable(id, headings, rows) {
  const numeric = (place) => rows.length > 0 && typeof rows[0][place] === "number";
  const head = element("tr", "");
  head.append(...headings.map((name, place) => element("th", name, numeric(place) ? "number" : "")));
  const body = rows.map((row) => {
    const line = element("tr", "");
    line.append(...row.map((value, place) => {
      if (typeof value === "number") return element("td", number(value), "number");
      return element("td", value, value === "silent" ? "bad" : "");
    }));
    return line;
  });
  byId(id).replaceChildren(head, ...body);
}

function showTables(now) {
  showTable("processes", ["name", "state", "restarts"],
    now.processes.map((each) => [each.name, each.answers ? "well" : "silent", each.restarts]));
  showTable("applications", ["name", "saves/s", "reads/s", "counts/s", "denied/s", "in all", "may", "book", "token until"],
    now.applications.map((each) => [each.name, each.saves, each.reads, each.counts, each.denied, each.did,
      each.may.join(", ") || "–", each.book, each.expires ? each.expires.slice(0, 10) : "–"]));
}

function showEvents(now) {
  drawTimeline(now.events, now.now);
  const lines = now.events.slice(-30).reverse().map((event) => {
    const line = element("li", "", event.kind);
    line.append(element("time", clock(event.t)), element("span", event.text));
    return line;
  });
  byId("events").replaceChildren(...(lines.length ? lines : [element("li", "Nothing has happened.", "quiet")]));
}

function showLog(lines) {
  const log = byId("log");
  if (log.textContent === lines.map((line) => `${line}\n`).join("")) return;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
  log.replaceChildren(...lines.map((line) => element("span", `${line}\n`, (line.match(/ (WARNING|ERROR) /) ?? ["", ""])[1])));
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function show(now) {
  told = now;
  samples = [...samples, ...now.samples].filter((each) => each.t > now.now - KEPT_MS);
  showState(now);
  showFigures(now);
  for (const chart of charts) chart.show(samples, now.events, now.now);
  showEvents(now);
  showTables(now);
  showLog(now.log);
}

// --- Asking. ---

function open(board) {
  byId("board").hidden = !board;
  byId("entrance").hidden = board;
  if (!board) byId("token").focus();
}

async function ask() {
  if (asking || paused || document.hidden) return;
  asking = true;
  try {
    const last = samples[samples.length - 1];
    const answer = await fetch(`/page/data?after=${last ? last.t : 0}`, { signal: AbortSignal.timeout(10_000) });
    if (answer.ok) {
      if (byId("board").hidden) open(true);
      byId("board").classList.remove("stale");
      show(await answer.json());
      return;
    }
    if (answer.status === 401 || answer.status === 403) leave();
  } catch {
    byId("board").classList.add("ill", "stale");
    say("state", "No answer");
    document.title = "▲ pwserver does not answer";
  } finally {
    asking = false;
  }
}

function leave() {
  clearInterval(timer);
  timer = null;
  samples = [];
  open(false);
}

let timer = null;
function begin() {
  if (timer === null) timer = setInterval(ask, POLL_MS);
  ask();
}

async function enter(shown) {
  const answer = await fetch("/page/session", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(shown),
  });
  if (answer.ok) begin();
  else {
    say("refusal", shown.link ? "This link was used, or is too old." : (await answer.text()).trim());
    open(false);
  }
}

byId("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  enter({ token: byId("token").value.trim() });
  byId("token").value = "";
  say("refusal", "");
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
});
byId("leave").addEventListener("click", async () => {
  await fetch("/page/session", { method: "DELETE" });
  leave();
});
document.addEventListener("visibilitychange", ask);
window.addEventListener("resize", () => { if (told) show({ ...told, samples: [] }); });

const link = location.hash.match(/^#([\w-]{43})$/);
history.replaceState(null, "", "/page");
if (link) enter({ link: link[1] });
else fetch("/page/session").then((answer) => answer.json()).then((known) => (known.session ? begin() : open(false)));
