// What share of a layer a kernel has, over the validations of a search.

import { figure, roving, tip } from "/assets/charts/base.js";
import { colour, width as widthOf } from "/assets/lib/architecture.js";
import { svg } from "/assets/lib/dom.js";
import { table } from "/assets/lib/widgets.js";

const ROW = 19;

/// `columns` have `name` and `layers` ({layer, channels}); `kernel` is the one that is
/// shown, or empty for the one that has most of a layer.
export function heat({ title, about, columns, kernel, columnTitle }) {
  const names = columns[0].layers.map((layer) => layer.layer);
  const value = (column, row) => {
    const { channels } = column.layers[row];
    const all = widthOf(channels);
    if (kernel) return [kernel, (channels[kernel] ?? 0) / all];
    const [most, part] = Object.entries(channels).reduce((best, entry) => (entry[1] > best[1] ? entry : best), ["", 0]);
    return [most, part / all];
  };
  const draw = (full) => {
    const left = Math.min(150, full * 0.34);
    const step = Math.min(46, (full - left - 6) / columns.length);
    const height = names.length * ROW + 40;
    const cells = names.flatMap((name, row) => columns.map((column, place) => {
      const [shown, part] = value(column, row);
      const cell = svg("rect", { class: "cell", x: left + place * step, y: row * ROW, width: Math.max(1, step - (step > 4 ? 1 : 0)), height: ROW - 1, fill: colour(shown), "fill-opacity": kernel ? 0.06 + 0.94 * part : 0.25 + 0.75 * part,
        role: "img", "data-key": `heat ${row} ${place}`, "aria-label": `${name}, ${column.name}: ${shown} ${Math.round(100 * part)} %` });
      return tip(cell, `${name}\n${column.name}\n${shown}: ${Math.round(100 * part)} % of ${widthOf(column.layers[row].channels)} channels`);
    }));
    const every = Math.max(1, Math.ceil(44 / step));
    const labels = columns.map((column, place) => ((columns.length - 1 - place) % every === 0 ? svg("text", { x: left + (place + 0.5) * step, y: names.length * ROW + 14, "text-anchor": "middle" }, column.short) : null)).filter(Boolean);
    const rows = names.map((name, row) => svg("text", { x: left - 6, y: row * ROW + 13, "text-anchor": "end" }, name.length * 6 > left ? `…${name.slice(-Math.floor(left / 6.6))}` : name));
    return svg("svg", { class: "heat", viewBox: `0 0 ${full} ${height}`, width: full, height, role: "group", "aria-label": title },
      svg("g", { "aria-hidden": "true" }, ...rows, ...labels, svg("text", { class: "axis-title", x: left, y: height - 6 }, columnTitle)),
      ...roving(cells, columns.length));
  };
  const cells = names.map((name, row) => [name, ...columns.map((column) => {
    const [shown, part] = value(column, row);
    return kernel ? `${Math.round(100 * part)} %` : `${shown} ${Math.round(100 * part)} %`;
  })]);
  return figure({ title, about, draw, table: table(title, [["Layer"], ...columns.map((column) => [column.name, "num"])], cells), key: "heat" });
}
