// Values over steps, several runs in one picture.

import { axes, bounds, canvas, figure, linear, roving, ticks, tip } from "/assets/charts/base.js";
import { svg } from "/assets/lib/dom.js";
import { number, si } from "/assets/lib/format.js";
import { table } from "/assets/lib/widgets.js";

// After Okabe and Ito; those beyond eight are dashed.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#7a5195"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

export const look = (place) => ({ stroke: COLOURS[place % COLOURS.length], "stroke-dasharray": DASHES[Math.floor(place / COLOURS.length) % DASHES.length] });

/// `runs` have `name`, `steps` and `values`.
export function curves({ title, about, runs, yTitle, logarithmic, height: wanted = 0.45, key }) {
  const usable = (value) => value !== null && Number.isFinite(value) && (!logarithmic || value > 0);
  const place = (value) => (logarithmic ? Math.log10(value) : value);
  const points = runs.map((run) => run.steps.map((step, index) => [step, run.values[index]]).filter(([, value]) => usable(value)));
  const draw = (width) => {
    const height = Math.round(Math.min(380, Math.max(200, width * wanted)));
    const box = { left: 56, right: width - 12, top: 24, bottom: height - 40 };
    const xs = bounds(points.flat().map(([step]) => step), 0);
    const ys = bounds(points.flat().map(([, value]) => place(value)), 0.05);
    const x = linear(xs, [box.left, box.right]);
    const y = linear(ys, [box.bottom, box.top]);
    const lines = points.map((known, index) => svg("path", { class: "curve", ...look(index), d: known.map(([step, value], at) => `${at === 0 ? "M" : "L"}${x(step).toFixed(1)} ${y(place(value)).toFixed(1)}`).join("") }));
    // The last value of each run can be reached; between them the table says more.
    const ends = points.map((known, index) => {
      const last = known.at(-1);
      if (!last) return null;
      const text = `${runs[index].name}\nstep ${last[0]}: ${number(last[1], 4)}`;
      return tip(svg("circle", { class: "mark", cx: x(last[0]), cy: y(place(last[1])), r: 5, fill: look(index).stroke, role: "img", "aria-label": text.replace("\n", ", "), "data-key": `end ${runs[index].name}` }), text);
    }).filter(Boolean);
    const text = (value) => (logarithmic ? number(10 ** value, 2) : number(value, 3));
    return canvas(width, height, title,
      axes({ box, x, y, xTicks: ticks(...xs, width < 480 ? 3 : 6), yTicks: ticks(...ys, 5), xText: (value) => si(value), yText: text, xTitle: "step", yTitle }),
      svg("g", { "aria-hidden": "true" }, ...lines), ...roving(ends));
  };
  const legend = runs.length < 2 ? null : runs.map((run, index) => [svg("svg", { viewBox: "0 0 20 12", "aria-hidden": "true" }, svg("line", { x1: 0, x2: 20, y1: 6, y2: 6, "stroke-width": 2.5, ...look(index) })), run.name]);
  const rows = runs.map((run, index) => {
    const known = points[index];
    const values = known.map(([, value]) => value);
    return [run.name, known.length, number(known[0]?.[1]), number(Math.min(...values)), number(Math.max(...values)), number(known.at(-1)?.[1], 4), known.at(-1)?.[0] ?? "–"];
  });
  const columns = [["Run"], ["Points", "num"], ["First", "num"], ["Lowest", "num"], ["Highest", "num"], ["Last", "num"], ["At step", "num"]];
  return figure({ title, about, draw, legend, table: table(`${title}, in figures`, columns, rows), key: key ?? title });
}
