"""The script of the parallel coordinates: lines on a canvas, axes and ranges over them.

plotly draws them with WebGL. At a thousand trials and without a graphics card, its first picture took a third as long
as all other plots together, and choosing was five times as slow as on the plain canvas here.
"""

PARALLEL = r"""
const XMLNS = "http://www.w3.org/2000/svg", TOP = 40, LOW = 18, SIDE = 56, REACH = 12;
function shape(tag, attributes, text) {
  const made = document.createElementNS(XMLNS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function blend(colours, share) {
  const at = share * (colours.length - 1), i = Math.min(Math.floor(at), colours.length - 2);
  const parts = [colours[i], colours[i + 1]].map(hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16)));
  return "rgb(" + parts[0].map((low, k) => Math.round(low + (parts[1][k] - low) * (at - i))).join(",") + ")";
}
// what of the plot outlives a change of its size or of the colours: the order of the axes, and their ranges
function parallelOf(plot) {
  const { axes, trials, ranks } = plot.data[0], place = document.getElementById(plot.name);
  const canvas = make("canvas"), tip = make("div", "", "tip");
  const over = shape("svg", { role: "img", "aria-label": "Parallel coordinates" });
  place.replaceChildren(canvas, over, tip);
  const order = axes.map((_, i) => i), ranges = axes.map(() => null);
  let width = 0, height = 0, of = css(), kept = null, waiting = false, moved = null;

  const across = slot => SIDE + slot * (width - 2 * SIDE) / (axes.length - 1);
  const down = (axis, v) => TOP + (axis.high - v) / (axis.high - axis.low) * (height - TOP - LOW);
  const up = (axis, y) => axis.high - (y - TOP) / (height - TOP - LOW) * (axis.high - axis.low);
  const isKept = i => !kept || kept.has(trials[i]);

  function path(i) {
    const line = new Path2D();
    order.forEach((a, slot) => {
      const x = across(slot), y = down(axes[a], axes[a].values[i]);
      if (!slot) return line.moveTo(x, y);
      const before = axes[order[slot - 1]], x0 = across(slot - 1), bend = 0.4 * (x - x0);
      line.bezierCurveTo(x0 + bend, down(before, before.values[i]), x - bend, y, x, y);
    });
    return line;
  }
  function paint() {
    const scale = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = width * scale;
    canvas.height = height * scale;
    pen.scale(scale, scale);
    pen.lineWidth = trials.length > 300 ? 1 : 1.4;
    const scheme = [of("--s0"), of("--s1"), of("--s2")], all = trials.map((_, i) => i);
    pen.strokeStyle = of("--line");
    pen.globalAlpha = 0.4;
    for (const i of all) if (!isKept(i)) pen.stroke(path(i));
    for (const i of all) if (isKept(i)) {  // the best come last, over all others
      pen.strokeStyle = blend(scheme, ranks[i] ** 2);
      pen.globalAlpha = 0.35 + 0.6 * ranks[i] ** 2;
      pen.stroke(path(i));
    }
  }
  function axesOver() {
    over.setAttribute("viewBox", "0 0 " + width + " " + height);
    const made = [];
    order.forEach((a, slot) => {
      const axis = axes[a], x = across(slot), group = shape("g", { class: "axis" }), ends = [TOP, height - LOW];
      group.append(shape("line", { x1: x, x2: x, y1: ends[0], y2: ends[1] }));
      for (const [v, text] of axis.ticks) {
        const last = slot === axes.length - 1;
        const at = { x: last ? x + 6 : x - 6, y: down(axis, v) + 4, "text-anchor": last ? "start" : "end" };
        group.append(shape("text", { ...at, class: "tick" }, text));
      }
      if (ranges[a]) {
        const [y, end] = ranges[a].map(v => down(axis, v)).reverse();
        group.append(shape("rect", { class: "range", x: x - 7, width: 14, y, height: Math.max(end - y, 2) }));
      }
      const name = shape("text", { class: "name", x, y: 18, "text-anchor": "middle" }, axis.label);
      name.append(shape("title", {}, axis.name));
      const grip = shape("rect", { class: "grip", x: x - REACH, width: 2 * REACH, y: ends[0] - 8,
        height: ends[1] - ends[0] + 16 });
      grip.addEventListener("pointerdown", event => brush(event, a));
      name.addEventListener("pointerdown", event => shift(event, a));
      group.append(name, grip);
      made.push(group);
    });
    over.replaceChildren(...made, shape("path", { class: "over" }));
  }
  const spot = event => {
    const box = over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  function follow(event, move, end) {
    event.preventDefault();
    const done = () => { window.removeEventListener("pointermove", move); end(); };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", done, { once: true });
  }
  function brush(event, a) {
    const axis = axes[a], old = ranges[a], from = up(axis, spot(event)[1]);
    const inside = old && from >= old[0] && from <= old[1];
    let dragged = false;
    follow(event, later => {
      const to = up(axis, spot(later)[1]);
      dragged ||= Math.abs(down(axis, to) - down(axis, from)) > 3;
      if (!dragged) return;
      ranges[a] = inside ? old.map(end => end + to - from) : [Math.min(from, to), Math.max(from, to)];
      choose();
    }, () => {
      if (!dragged) ranges[a] = null;  // a click on an axis frees it
      choose();
      redrawCurves();
    });
  }
  function shift(event, a) {
    follow(event, later => {
      const slot = Math.round((spot(later)[0] - SIDE) / (across(1) - across(0)));
      const to = Math.min(Math.max(slot, 0), axes.length - 1), from = order.indexOf(a);
      if (to === from) return;
      order.splice(from, 1);
      order.splice(to, 0, a);
      soon();
    }, () => {});
  }
  function choose() {
    const any = ranges.some(range => range);
    kept = !any ? null : new Set(trials.filter((_, i) => axes.every(({ values }, a) =>
      !ranges[a] || (values[i] >= ranges[a][0] && values[i] <= ranges[a][1]))));
    document.getElementById("chosen").textContent = any ? kept.size + " chosen above \u00d7" : "";
    change({ chosen: kept });
    soon();
  }
  function nearest([x, y]) {
    const slot = Math.floor((x - SIDE) / (across(1) - across(0)));
    if (slot < 0 || slot >= axes.length - 1) return null;
    const t = (x - across(slot)) / (across(1) - across(0)), bent = t * t * (3 - 2 * t);
    const [left, right] = [axes[order[slot]], axes[order[slot + 1]]];
    let best = null, least = 7;
    trials.forEach((_, i) => {
      const a = down(left, left.values[i]), off = Math.abs(a + bent * (down(right, right.values[i]) - a) - y);
      if (off <= least && isKept(i)) [best, least] = [i, off];
    });
    return best;
  }
  function point(event) {
    moved = event && nearest(spot(event));
    const line = over.querySelector(".over");
    tip.hidden = moved === null;
    over.style.cursor = moved === null ? "" : "pointer";
    if (moved === null) return line.removeAttribute("d");
    line.setAttribute("d", order.map((a, slot) => {
      const x = across(slot), y = down(axes[a], axes[a].values[moved]);
      if (!slot) return "M" + x + " " + y;
      const before = axes[order[slot - 1]], x0 = across(slot - 1), bend = 0.4 * (x - x0);
      return ["C" + (x0 + bend), down(before, before.values[moved]), x - bend, y, x, y].join(" ");
    }).join(""));
    const [x, y] = spot(event);
    tip.innerHTML = label(trials[moved]);
    tip.style.top = Math.min(y + 14, height - tip.offsetHeight) + "px";
    tip.style.left = (x + 18 + tip.offsetWidth > width ? x - 18 - tip.offsetWidth : x + 18) + "px";
  }
  over.addEventListener("pointermove", event => { if (!event.buttons) point(event); });
  over.addEventListener("pointerleave", () => point(null));
  over.addEventListener("click", event => {
    if (moved !== null && !event.target.matches(".grip")) show(trials[moved]);
  });

  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; measure(); });
  }
  function measure() {
    [width, height, of] = [place.clientWidth, place.clientHeight, css()];
    paint();
    axesOver();
  }
  tip.hidden = true;
  measure();
  new ResizeObserver(() => { if (place.clientWidth !== width) soon(); }).observe(place);
  return { redraw: measure, free: () => { ranges.fill(null); choose(); redrawCurves(); } };
}
"""
