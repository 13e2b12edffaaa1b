"""The report's own script: it unpacks plotly, draws the plots in the colours of the page, and runs the table."""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const trials = new Map(data.trials.map(trial => [trial.n, trial]));
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const digits = (value, count) => typeof value !== "number" ? String(value)
  : Number.isInteger(value) && Math.abs(value) < 1e15 ? String(value) : String(+value.toPrecision(count));
const took = s => s === null ? "" : s < 1 ? Math.round(1000 * s) + " ms" : s < 60 ? digits(s, 3) + " s"
  : s < 3600 ? Math.floor(s / 60) + " min " + Math.round(s % 60) + " s"
  : Math.floor(s / 3600) + " h " + Math.round(s % 3600 / 60) + " min";
const value = (trial, i = 0) => trial.v === null ? trial.s : digits(trial.v[i], 6);

// copying, also where a page may not use the clipboard: from a file, in a frame
async function copy(text, button, said = "copied") {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", text);
    (button.closest("dialog") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.dataset.label ??= button.textContent;
  button.textContent = said;
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}
// MLflow shows the page in a frame that may not open others
const caged = window.parent !== window && window.origin === "null";
document.addEventListener("click", event => {
  const link = event.target.closest("a.link");
  if (link && caged) {
    event.preventDefault();
    copy(link.href, link, "address copied");
  }
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.from) copy(document.getElementById(button.dataset.from).textContent, button);
  else if (button.dataset.text !== undefined) copy(button.dataset.text, button);
  else if (button.dataset.trial) show(+button.dataset.trial);
  else if (button.dataset.pick) pick(+button.dataset.pick);
  else if (button.dataset.to) document.getElementById(button.dataset.to).scrollIntoView({ behavior: "smooth" });
});

// one trial
function runOf(trial, text) {
  if (!trial.run) return make("span", "");
  if (data.address) {
    const link = make("a", text, "link");
    link.href = data.address + encodeURIComponent(trial.run) + data.query;
    link.target = "_blank";
    link.rel = "noopener";
    return link;
  }
  const place = make("span", undefined, "run"), button = make("button", "copy", "copy");
  button.dataset.text = trial.run;
  place.append("run ", make("code", trial.run), button);
  return place;
}
const words = /^(true|false|null|yes|no|on|off|y|n)$/i;
const yaml = config => Object.entries(config).map(([name, value]) => {
  const key = /^[A-Za-z_][A-Za-z0-9_./-]*$/.test(name) && !words.test(name) ? name : JSON.stringify(name);
  const text = JSON.stringify(value);
  return key + ": " + (typeof value === "number" ? text.replace(/^(-?\d+)e/, "$1.0e") : text);
}).join("\n");
const dialog = document.querySelector("dialog");
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
function show(number) {
  const trial = trials.get(number);
  if (!trial) return;
  const close = make("button", "close", "close"), list = make("dl"), config = make("pre", yaml(trial.c));
  close.onclick = () => dialog.close();
  const pair = (name, text) => { if (text !== "" && text !== null) list.append(make("dt", name), make("dd", text)); };
  data.objectives.forEach(({ name }, i) => pair(name, value(trial, i)));
  pair(data.fidelity, trial.f === null ? "" : digits(trial.f, 6));
  pair("duration", took(trial.t));
  pair("started", trial.at ? new Date(trial.at).toISOString().slice(0, 19).replace("T", " ") + " UTC" : "");
  pair("goes on from trial", trial.p);
  for (const [name, text] of Object.entries(trial.notes)) pair(name.replaceAll("_", " "), digits(text, 6));
  for (const [name, number] of Object.entries(trial.m)) if (!data.objectives.some(each => each.name === name))
    pair(name, digits(number, 6));
  const button = make("button", "Copy YAML", "copy main"), row = make("div", undefined, "row");
  button.dataset.text = config.textContent;
  row.append(button);
  if (curves.has(number)) {
    const other = make("button", picked.includes(number) ? "Unpick its curve" : "Pick its curve");
    other.onclick = () => { pick(number); show(number); };
    row.append(other);
  }
  row.append(runOf(trial, "Open in MLflow"));
  const ended = trial.s === "failed" ? "Why it failed" : "Why it ended";
  const reason = trial.why ? [make("h4", ended), make("pre", trial.why)] : [], title = make("h3", "Trial " + number);
  dialog.replaceChildren(close, title, list, ...reason, make("h4", "Configuration"), config, row);
  if (!dialog.open) dialog.showModal();
}

// the learning curves: those that the reader picks stand out, else those of the best
const curves = new Map(), picked = [], colours = 6;
for (const plot of data.plots.filter(plot => plot.name === "rungs")) for (const trace of plot.data) {
  let at = 0;
  trace.customdata = [];
  for (const [number, count] of trace.whose) {
    curves.set(number, { x: trace.x.slice(at, at + count), y: trace.y.slice(at, at + count) });
    for (let i = 0; i < count; i++) trace.customdata.push(number);
    at += count;
    if (at < trace.x.length) { trace.customdata.push(null); at++; }
  }
  delete trace.whose;
}
const joined = numbers => {
  const made = { x: [], y: [], customdata: [] };
  for (const number of numbers) {
    const { x, y } = curves.get(number);
    made.x.push(...x, null);
    made.y.push(...y, null);
    made.customdata.push(...x.map(() => number), null);
  }
  return made;
};
function standingOut(plot) {
  const chosen = state.chosen && [...state.chosen].filter(number => curves.has(number));
  if (!picked.length && !chosen) return plot;
  const [others, ...best] = plot.data, apart = new Set([...picked, ...chosen || []]);
  const line = (numbers, name, color, width, opacity = 1) => ({ ...others, ...joined(numbers), name, opacity,
    line: { color, width }, marker: { ...others.marker, color } });
  return { ...plot, data: [
    { ...others, ...joined([...curves.keys()].filter(number => !apart.has(number))) },
    ...chosen ? [line(chosen, chosen.length + " chosen", "--accent", 1.2, chosen.length > 30 ? 0.45 : 0.9)]
      : best.slice(-1).filter(trace => !picked.includes(trace.customdata[0])),
    ...picked.map((number, i) => line([number], "trial " + number, "--p" + i % colours, 2.5)),
  ] };
}
function toggle(number) {
  const button = make("button", undefined, "pick"), at = picked.indexOf(number);
  button.dataset.pick = number;
  button.title = (at < 0 ? "draw" : "no longer draw") + " its learning curve";
  button.setAttribute("aria-label", button.title);
  button.setAttribute("aria-pressed", at >= 0);
  if (at >= 0) button.style.background = button.style.borderColor = "var(--p" + at % colours + ")";
  return button;
}
function pick(number) {
  const at = picked.indexOf(number);
  if (at < 0) picked.push(number); else picked.splice(at, 1);
  document.getElementById("picks").replaceChildren(...picked.map((each, i) => {
    const chip = make("button", "trial " + each + " \u00d7");
    chip.dataset.pick = each;
    chip.style.borderLeftColor = "var(--p" + i % colours + ")";
    return chip;
  }));
  fill();
  redrawCurves();
}
function redrawCurves() {
  const plot = data.plots.find(each => each.name === "rungs");
  if (plot && document.getElementById("rungs").dataset.drawn) draw(plot, css());
}

// the table: each column has a title, what sorts it and filters it, and what it shows
const size = 25, state = { sort: 2, down: !data.objectives[0].minimize, page: 0, words: "", kind: "", chosen: null };
const columns = [
  { title: "trial", of: t => t.n },
  { title: "state", of: t => t.e ? "stopped early" : t.s, text: true },
  ...data.objectives.map(({ name }, i) => ({ title: name, of: t => t.v && t.v[i],
    shown: t => t.v === null ? "" : digits(t.v[i], 6) })),
];
if (data.trials.some(t => t.f !== null))
  columns.push({ title: data.fidelity, of: t => t.f,
    shown: t => t.f !== null ? digits(t.f, 6) : t.v !== null ? "all" : "" });
columns.push({ title: "duration", of: t => t.t, shown: t => took(t.t) });
for (const name of data.names)
  columns.push({ title: name, text: !data.numeric.includes(name),
    of: t => !(name in t.c) ? null : t.c[name] === null ? "null" : t.c[name],
    shown: t => name in t.c ? digits(t.c[name], 4) : "" });
for (const name of data.metrics) columns.push({ title: name, of: t => t.m[name] ?? null });
columns.push({ title: "in MLflow", of: t => t.run, text: true, link: true });
const shown = (column, trial) => {
  if (column.shown) return column.shown(trial);
  const found = column.of(trial);
  return found === null ? "" : digits(found, 6);
};
const body = document.querySelector("#table tbody"), heads = document.querySelector("#table thead tr");
const compare = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  "=": (a, b) => String(a).toLowerCase() === String(b).toLowerCase() || (b !== "" && a === Number(b)) };
function asked(text) {
  return text.trim().split(/\s+/).filter(Boolean).map(word => {
    const [, name, sign, bound] = /^(.+?)(<=|>=|=|<|>)(.*)$/.exec(word) || [];
    const column = columns.find(c => c.title === name);
    if (!column) return t => columns.some(c => shown(c, t).toLowerCase().includes(word.toLowerCase()))
      || t.why.toLowerCase().includes(word.toLowerCase());
    const right = sign === "=" ? bound : Number(bound);
    return t => { const left = column.of(t); return left !== null && bound !== "" && compare[sign](left, right); };
  });
}
function rows() {
  const tests = asked(state.words), column = columns[state.sort], turn = state.down ? -1 : 1;
  const kept = data.trials.filter(t => (!state.kind || t.s === state.kind || (state.kind === "early" && t.e)
    || (state.kind === "front" && data.best.includes(t.n)))
    && (!state.chosen || state.chosen.has(t.n)) && tests.every(test => test(t)));
  const keys = new Map(kept.map(t => [t, column.of(t)]));
  return kept.sort((s, t) => {
    const a = keys.get(s), b = keys.get(t);
    if (a === null || b === null) return (a === null) - (b === null) || s.n - t.n;
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return turn * order || s.n - t.n;
  });
}
function fill() {
  const kept = rows(), pages = Math.max(1, Math.ceil(kept.length / size));
  state.page = Math.min(state.page, pages - 1);
  body.replaceChildren(...kept.slice(state.page * size, (state.page + 1) * size).map(trial => {
    const line = make("tr", undefined, data.best.includes(trial.n) ? "best" : "");
    line.dataset.number = trial.n;
    line.tabIndex = 0;
    line.append(...columns.map((column, i) => {
      const kind = (column.text ? "text " : "") + (i === 1 ? trial.s : "");
      const cell = make("td", column.link ? undefined : shown(column, trial), kind.trim());
      if (i === 0 && curves.has(trial.n)) cell.prepend(toggle(trial.n));
      if (column.link) cell.append(data.address ? runOf(trial, "open") : make("code", trial.run.slice(0, 8)));
      else if (cell.textContent.length > 20) cell.title = cell.textContent;
      return cell;
    }));
    return line;
  }));
  heads.querySelectorAll("th").forEach((head, i) => i === state.sort
    ? head.setAttribute("aria-sort", state.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
  const first = kept.length ? state.page * size + 1 : 0, last = Math.min(kept.length, (state.page + 1) * size);
  document.getElementById("count").textContent = first + " to " + last + " of " + kept.length
    + (kept.length < data.total ? " (of " + data.total + " trials)" : " trials");
  document.getElementById("before").disabled = state.page === 0;
  document.getElementById("after").disabled = state.page === pages - 1;
  document.getElementById("chosen").hidden = !state.chosen;
}
heads.append(...columns.map((column, i) => {
  const head = make("th", undefined, column.text ? "text" : ""), button = make("button", column.title);
  button.onclick = () => change({ down: state.sort === i && !state.down, sort: i });
  head.append(button);
  return head;
}));
body.addEventListener("click", event => {
  const line = event.target.closest("tr");
  if (line && !event.target.closest("a, button")) show(+line.dataset.number);
});
body.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.target.matches("tr")) show(+event.target.dataset.number);
});
const change = changes => { Object.assign(state, { page: 0 }, changes); fill(); };
document.getElementById("words").oninput = event => change({ words: event.target.value });
document.getElementById("kind").onchange = event => change({ kind: event.target.value });
document.getElementById("before").onclick = () => { state.page--; fill(); };
document.getElementById("after").onclick = () => { state.page++; fill(); };
document.getElementById("chosen").onclick = () => parallel.free();
fill();

// the plots
const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(pointer: coarse)").matches;
const hovers = matchMedia("(hover: hover)").matches;  // without, the bar of buttons would lie on the legend
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const cut = text => text.length > 60 ? text.slice(0, 59) + "\u2026" : text;
const labels = new Map();
function label(number) {
  if (number === null || !trials.has(number)) return "";
  if (!labels.has(number)) {
    const trial = trials.get(number);
    const values = data.objectives.map(({ name }, i) => plain(cut(name)) + " " + value(trial, i));
    const lines = ["<b>" + values.slice(0, trial.v ? 3 : 1).join("<br>") + "</b>  trial " + number];
    if (trial.f !== null) lines.push(plain(data.fidelity) + " " + digits(trial.f, 6));
    if (trial.why) lines.push(plain(cut(trial.why)));
    const settings = Object.entries(trial.c);
    for (const [name, set] of settings.slice(0, 12)) lines.push(plain(cut(name + " = " + digits(set, 4))));
    if (settings.length > 12) lines.push("\u2026");
    labels.set(number, lines.join("<br>"));
  }
  return labels.get(number);
}
const css = () => {
  const found = getComputedStyle(document.documentElement);
  return name => found.getPropertyValue(name).trim();
};
function painted(thing, of) {
  if (Array.isArray(thing)) return typeof thing[0] === "object" ? thing.map(each => painted(each, of)) : thing;
  if (thing === null || typeof thing !== "object") return thing;
  const made = {};
  for (const [key, each] of Object.entries(thing)) {
    if (key === "colorscale") made[key] = [[0, of("--s0")], [0.5, of("--s1")], [1, of("--s2")]];
    else if (/color$/.test(key) && typeof each === "string" && each.startsWith("--")) made[key] = of(each);
    else made[key] = painted(each, of);
  }
  return made;
}
function themed(plot, of) {
  const small = { color: of("--dim"), size: 12 };
  const axis = { automargin: true, gridcolor: of("--line"), linecolor: of("--line"), zeroline: false, tickfont: small };
  const layout = Object.assign({
    font: { color: of("--ink"), family: "system-ui, -apple-system, sans-serif", size: 12 }, height: plot.height,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, hovermode: "closest",
    margin: { l: 8, r: 12, t: 12, b: 8 }, dragmode: touch ? false : "zoom",
    hoverlabel: { bgcolor: of("--card"), bordercolor: of("--line"), align: "left",
      font: { color: of("--ink"), family: "system-ui, -apple-system, sans-serif", size: 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: of("--mute"), activecolor: of("--accent") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: small, bgcolor: "rgba(0,0,0,0)" },
  }, painted(plot.layout, of));
  for (const key of ["xaxis", "yaxis"]) {
    const own = layout[key] || {}, title = own.title && { ...own.title, font: small, standoff: 8 };
    layout[key] = { ...axis, ...own, ...(title ? { title } : {}) };
    if (own.type === "date") Object.assign(layout[key], { nticks: innerWidth < 600 ? 4 : 10, tickangle: 0 });
  }
  return layout;
}
function traces(plot, of) {
  const made = painted(plot.data, of);
  for (const trace of made) {
    if (trace.customdata && trace.hoverinfo !== "skip")
      Object.assign(trace, { text: trace.customdata.map(label), hovertemplate:
        (plot.name === "rungs" ? "%{y:.6g} at %{x}<br>" : "") + "%{text}<extra></extra>" });
    if (trace.type === "bar") trace.textposition = "none";
    const font = { color: of("--dim"), size: 11 };
    if (trace.colorbar) Object.assign(trace.colorbar, { tickfont: font, title: { ...trace.colorbar.title, font } });
  }
  return made;
}
let parallel = null;
async function draw(plot, of) {
  const place = document.getElementById(plot.name), first = !place.dataset.drawn;
  if (plot.name === "parallel") {
    if (first) parallel = parallelOf(plot); else parallel.redraw();
  } else {
    const shown = plot.name === "rungs" ? standingOut(plot) : plot;
    await Plotly.react(place, traces(shown, of), themed(plot, of), { responsive: true, displaylogo: false,
      displayModeBar: hovers ? "hover" : false, modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]] });
    if (first) place.on("plotly_click", event => {
      const number = event.points.map(point => point.customdata).find(found => typeof found === "number");
      if (number !== undefined) show(number);
    });
  }
  place.dataset.drawn = "yes";
}
async function drawAll() {
  const of = css();
  for (const plot of data.plots) {
    await draw(plot, of);
    await new Promise(done => setTimeout(done));
  }
}
async function begin() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = make("script", await new Response(stream).text());
  document.head.append(script);
  await drawAll();
  dark.addEventListener("change", drawAll);
}
begin().catch(error => {
  console.error(error);
  const why = typeof DecompressionStream === "undefined"
    ? "The plots need a browser of 2023 or later." : "The plots cannot be drawn: " + error.message;
  for (const place of document.querySelectorAll(".plot:not([data-drawn])"))
    place.replaceChildren(make("p", why, "empty"));
});
"""
