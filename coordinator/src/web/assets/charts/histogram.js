// Candidate channels by |gamma|: which are kept, which are not, and where the cut is.

import { canvas, figure, linear, ticks, tip } from "/assets/charts/base.js";
import { colour } from "/assets/lib/architecture.js";
import { el, svg } from "/assets/lib/dom.js";
import { number } from "/assets/lib/format.js";
import { table } from "/assets/lib/widgets.js";

export function histogram({ kernel, counts, kept, cut, zero_count: zeros, kept_count: keptCount, candidate_count: all }, { max, highest, oneLayer }) {
  const bins = counts.length;
  const draw = (width) => {
    const height = 132;
    const box = { left: 30, right: width - 6, top: 12, bottom: height - 24 };
    const x = linear([0, max || 1], [box.left, box.right]);
    const y = linear([0, highest || 1], [box.bottom, box.top]);
    const step = (box.right - box.left) / bins;
    const bars = counts.map((count, bin) => {
      if (count === 0) return null;
      const [from, to] = [(bin / bins) * max, ((bin + 1) / bins) * max];
      const place = { x: box.left + bin * step + 0.5, width: Math.max(1, step - 1) };
      const whole = svg("rect", { ...place, y: y(count), height: box.bottom - y(count), fill: colour(kernel), "fill-opacity": 0.28 });
      const inner = svg("rect", { ...place, y: y(kept[bin]), height: box.bottom - y(kept[bin]), fill: colour(kernel), stroke: "var(--edge)", "stroke-width": 0.5 });
      return tip(svg("g", {}, whole, kept[bin] > 0 ? inner : null), `|γ| ${number(from, 2)} to ${number(to, 2)}\n${kept[bin]} of ${count} kept`);
    }).filter(Boolean);
    const line = cut === null || !oneLayer ? null : svg("line", { class: "cut", x1: x(cut), x2: x(cut), y1: box.top - 6, y2: box.bottom });
    const label = cut === null || !oneLayer ? null : svg("text", { x: Math.min(x(cut) + 4, box.right - 52), y: box.top - 1 }, `cut ${number(cut, 2)}`);
    return canvas(width, height, `|γ| of ${kernel}`, svg("g", { "aria-hidden": "true" },
      svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      ...ticks(0, max, 3).map((value) => svg("text", { x: x(value), y: box.bottom + 15, "text-anchor": "middle" }, number(value, 2))),
      ...ticks(0, highest, 2).filter(Number.isInteger).map((value) => svg("text", { x: box.left - 5, y: y(value) + 4, "text-anchor": "end" }, value)),
      ...bars, line, label));
  };
  const rows = counts.map((count, bin) => [`${number((bin / bins) * max, 2)}–${number(((bin + 1) / bins) * max, 2)}`, count, kept[bin]]).filter((row) => row[1] > 0);
  const about = `${keptCount} of ${all} kept${zeros ? `, ${zeros} exactly zero` : ""}${cut !== null && oneLayer ? `; cut at ${number(cut)}` : ""}`;
  const title = el("span", {}, el("span", { class: "swatch", style: { background: colour(kernel) } }), kernel);
  return figure({ title, about, draw, table: table(`|γ| of ${kernel}`, [["|γ|"], ["Candidates", "num"], ["Kept", "num"]], rows), key: `histogram ${kernel}` });
}
