// Quality against cost, with the front.

import { axes, bounds, canvas, figure, linear, roving, ticks, tip } from "/assets/charts/base.js";
import { svg } from "/assets/lib/dom.js";

const SHAPES = {
  derived: (x, y) => svg("circle", { cx: x, cy: y, r: 6.5 }),
  baseline: (x, y) => svg("path", { d: `M${x} ${y - 8.5}L${x + 8.5} ${y}L${x} ${y + 8.5}L${x - 8.5} ${y}Z` }),
  random: (x, y) => svg("rect", { x: x - 5.5, y: y - 5.5, width: 11, height: 11 }),
};

function mark(kind, x, y, beaten) {
  const shape = SHAPES[kind](x, y);
  shape.setAttribute("class", `mark mark-${kind}${beaten ? " beaten" : ""}`);
  return shape;
}

function sample(kind) {
  const shape = mark(kind, 10, 10, false);
  return svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, shape);
}

/// `points` have `key`, `name`, `kind`, `cost`, `quality`, `deviation`, `onFront`, `lines`.
export function scatter({ title, about, points, costTitle, costText, qualityTitle, open, table }) {
  const kinds = [...new Set(points.map((point) => point.kind))];
  const names = { derived: "derived", baseline: "baseline", random: "random allocation" };
  const draw = (width) => {
    const height = Math.round(Math.min(420, Math.max(270, width * 0.5)));
    const box = { left: 52, right: width - 16, top: 26, bottom: height - 42 };
    const xs = bounds(points.map((point) => point.cost), 0.08);
    const spread = points.flatMap((point) => [point.quality - point.deviation, point.quality + point.deviation]);
    const ys = bounds(spread, 0.12);
    const x = linear(xs, [box.left, box.right]);
    const y = linear(ys, [box.bottom, box.top]);
    const line = points.filter((point) => point.onFront).sort((left, right) => left.cost - right.cost);
    const path = line.map((point, place) => (place === 0 ? `M${x(point.cost)} ${y(point.quality)}` : `H${x(point.cost)}V${y(point.quality)}`)).join("");
    const sorted = [...points].sort((left, right) => left.cost - right.cost);
    const marks = sorted.map((point) => {
      const shape = mark(point.kind, x(point.cost), y(point.quality), !point.onFront);
      shape.setAttribute("role", "link");
      shape.setAttribute("data-key", `point ${point.key}`);
      shape.setAttribute("aria-label", point.lines.join(", "));
      shape.addEventListener("click", () => open(point));
      return tip(shape, point.lines.join("\n"));
    });
    const whiskers = points.filter((point) => point.deviation > 0).map((point) => svg("line", { class: "whisker", x1: x(point.cost), x2: x(point.cost), y1: y(point.quality - point.deviation), y2: y(point.quality + point.deviation) }));
    // Names of the points of the front, where there is room.
    let free = -Infinity;
    const labels = width < 480 ? [] : line.map((point) => {
      const place = x(point.cost);
      const right = place > box.right - 90;
      if (place < free) return null;
      free = place + point.name.length * 6.2;
      return svg("text", { class: "point-label", x: place + (right ? -10 : 10), y: y(point.quality) + 17, "text-anchor": right ? "end" : "start" }, point.name);
    }).filter(Boolean);
    return canvas(width, height, title,
      axes({ box, x, y, xTicks: ticks(...xs, width < 480 ? 3 : 8), yTicks: ticks(...ys, 5), xText: costText, yText: (value) => value.toFixed(ys[1] - ys[0] < 0.05 ? 3 : 2), xTitle: costTitle, yTitle: qualityTitle }),
      svg("g", { "aria-hidden": "true" }, path ? svg("path", { class: "front", d: path }) : null, ...whiskers),
      ...roving(marks), svg("g", { "aria-hidden": "true" }, ...labels));
  };
  return figure({ title, about, draw, legend: kinds.map((kind) => [sample(kind), names[kind]]), table, key: "front" });
}
