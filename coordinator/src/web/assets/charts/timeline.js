// Which device ran what and when.

import { canvas, figure, linear, roving, tip } from "/assets/charts/base.js";
import { svg } from "/assets/lib/dom.js";
import { clock, duration } from "/assets/lib/format.js";

const LANE = 26;
const KINDS = { running: "running", succeeded: "succeeded", failed: "failed", offered: "offered" };

const kindOf = (outcome) => KINDS[outcome] ?? "other";

function sample(kind) {
  return svg("svg", { viewBox: "0 0 20 12", "aria-hidden": "true" }, svg("rect", { class: `span span-${kind}`, x: 0, y: 1, width: 18, height: 10 }));
}

/// `spans` have `worker`, `device`, `label`, `outcome`, `grant_time`, `end_time`, `job`.
export function timeline({ title, about, spans, from, to, open, table }) {
  const lanes = [...new Set(spans.map((span) => `${span.worker} ${span.device}`))].sort();
  const [start, end] = [new Date(from).getTime(), new Date(to).getTime()];
  const draw = (width) => {
    const left = Math.min(160, width * 0.32);
    const height = lanes.length * LANE + 34;
    const x = linear([start, end], [left, width - 8]);
    const bottom = lanes.length * LANE + 4;
    const marks = [...spans].sort((one, two) => lanes.indexOf(`${one.worker} ${one.device}`) - lanes.indexOf(`${two.worker} ${two.device}`) || one.grant_time.localeCompare(two.grant_time)).map((span) => {
      const lane = lanes.indexOf(`${span.worker} ${span.device}`);
      const [begin, stop] = [Math.max(start, new Date(span.grant_time).getTime()), Math.min(end, span.end_time ? new Date(span.end_time).getTime() : end)];
      const lines = [span.label, `${span.worker}, ${span.device}`, `${clock(span.grant_time)}, ${duration((new Date(span.end_time ?? to) - new Date(span.grant_time)) / 1000)}`, `attempt ${span.epoch}: ${span.outcome}`];
      const rect = svg("rect", { class: `span span-${kindOf(span.outcome)}`, x: x(begin), y: lane * LANE + 3, width: Math.max(2, x(stop) - x(begin)), height: LANE - 8, rx: 2, role: "link", "aria-label": lines.join(", "), "data-key": `span ${span.job} ${span.epoch}` });
      rect.addEventListener("click", () => open(span));
      return tip(rect, lines.join("\n"));
    });
    const count = width < 480 ? 3 : 6;
    const times = Array.from({ length: count + 1 }, (_, place) => start + ((end - start) * place) / count);
    const long = end - start > 36 * 3600e3;
    const text = (time) => (long ? clock(time).slice(5, 16) : clock(time).slice(11, 16));
    return canvas(width, height, title, svg("g", { "aria-hidden": "true" },
      ...lanes.map((lane, place) => svg("text", { x: left - 8, y: place * LANE + 17, "text-anchor": "end" }, lane.length * 6 > left ? `…${lane.slice(-Math.floor(left / 6.8))}` : lane)),
      ...lanes.map((_, place) => svg("line", { class: "grid", x1: left, x2: width - 8, y1: place * LANE + LANE - 1, y2: place * LANE + LANE - 1 })),
      ...times.map((time, place) => svg("text", { x: x(time), y: bottom + 16, "text-anchor": place === 0 ? "start" : place === count ? "end" : "middle" }, text(time)))),
      ...roving(marks));
  };
  const legend = [["running", "running"], ["succeeded", "succeeded"], ["failed", "failed"], ["other", "ended otherwise"]].map(([kind, text]) => [sample(kind), text]);
  return figure({ title, about, draw, legend, table, key: "timeline" });
}
