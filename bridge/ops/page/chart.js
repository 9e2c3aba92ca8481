// Small charts of the last 15 minutes.

const svg = "http://www.w3.org/2000/svg";
const spans = [60, 180, 300, 900]; // seconds: a bridge that has just started has no more to show
const slots = 180;

// newChart makes a chart that says what it shows.
export function newChart(label, kind = "") {
  const e = document.createElementNS(svg, "svg");
  e.setAttribute("class", `chart ${kind}`);
  e.setAttribute("viewBox", `0 0 ${slots} 32`);
  e.setAttribute("preserveAspectRatio", "none");
  e.setAttribute("role", "img");
  e.setAttribute("aria-label", label);
  const line = document.createElementNS(svg, "line");
  for (const [k, v] of Object.entries({ x1: 0, x2: slots, y1: 32, y2: 32 })) line.setAttribute(k, v);
  const path = document.createElementNS(svg, "path");
  e.append(line, path);
  return { element: e, path, label };
}

// draw shows figures, one a second, the newest last, and the most of each slot. Its height stands for least at least, so
// that what is next to nothing looks like it.
export function draw(chart, figures, unit, least = 0) {
  let most = 0;
  const tops = new Float32Array(slots);
  const span = spans.find((s) => s >= figures.length) ?? 900;
  for (let i = 0; i < figures.length; i++) {
    const slot = Math.floor((span - figures.length + i) * slots / span);
    for (let s = slot; s < slot + Math.max(1, Math.floor(slots / span)) && s < slots; s++) if (figures[i] > tops[s]) tops[s] = figures[i];
    if (figures[i] > most) most = figures[i];
  }
  const y = (v) => (32 - (most > 0 ? v / Math.max(most, least) : 0) * 30).toFixed(1);
  let d = "";
  if (most > 0) {
    d = "M0 32";
    for (let i = 0; i < slots; i++) d += `L${i} ${y(tops[i])}L${i + 1} ${y(tops[i])}`;
    d += `L${slots} 32Z`;
  }
  chart.path.setAttribute("d", d);
  chart.element.setAttribute("aria-label", `${chart.label} over the last ${span / 60} min: at most ${unit(most)}`);
}
