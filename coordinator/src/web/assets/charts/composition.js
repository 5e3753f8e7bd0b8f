// Channels of every layer by kernel, as stacked bars.

import { roving, tip } from "/assets/charts/base.js";
import { KERNELS, colour, spell, used, width } from "/assets/lib/architecture.js";
import { el } from "/assets/lib/dom.js";
import { table } from "/assets/lib/widgets.js";

export function stack(channels) {
  const all = width(channels);
  return el("span", { class: "stack", "aria-hidden": "true" }, KERNELS.filter(([kernel]) => channels[kernel] > 0).map(([kernel]) =>
    el("span", { style: { width: `${(100 * channels[kernel]) / all}%`, background: colour(kernel) } })));
}

export function legend(kernels) {
  return el("ul", { class: "legend", "aria-label": "Kernels" }, kernels.map((kernel) => el("li", {}, el("span", { class: "swatch", style: { background: colour(kernel) } }), kernel)));
}

export function composition(title, layers, { withTable = true } = {}) {
  const rows = layers.map(({ layer, channels }) => tip(
    el("div", { class: "layer", role: "img", "data-key": `${title} ${layer}`, "aria-label": `${layer}: ${spell(channels)} of ${width(channels)} channels` },
      el("span", { class: "name" }, el("bdi", {}, layer)), stack(channels), el("span", { class: "of" }, width(channels))),
    `${layer}\n${spell(channels)}\nof ${width(channels)} channels`));
  roving(rows);
  const kernels = used(layers);
  const columns = [["Layer"], ...kernels.map((kernel) => [kernel, "num"]), ["Channels", "num"]];
  const cells = layers.map(({ layer, channels }) => [layer, ...kernels.map((kernel) => channels[kernel] ?? 0), width(channels)]);
  return el("div", { class: "chart" }, el("div", { class: "composition", role: "group", "aria-label": `Channels per layer of ${title}` }, rows),
    withTable ? el("details", { "data-key": `table ${title}` }, el("summary", {}, "Show as a table"), table(`Channels per layer of ${title}`, columns, cells)) : null);
}
