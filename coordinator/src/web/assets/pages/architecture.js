// One architecture: what it costs and which kernels compute its layers.

import { composition, legend } from "/assets/charts/composition.js";
import { address } from "/assets/lib/api.js";
import { origins, spell, total, used } from "/assets/lib/architecture.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, count, macs, share, si } from "/assets/lib/format.js";
import { code, facts, notes, section, table } from "/assets/lib/widgets.js";

export const title = "Architecture";

export function show({ host, id, query, signal, title: name }) {
  const plate = el("div", { class: "page" });
  host.append(plate);
  section(plate, {
    urls: () => [address(`/architectures/${id}`)],
    draw: (found) => {
      name(origins(found));
      return draw(found, query.search);
    },
    concerns: () => false, signal,
  });
}

function draw(found, search) {
  const { cost } = found;
  const extent = cost.extent;
  const per = `${extent.depth ?? 1}×${extent.height ?? 1}×${extent.width ?? 1}`;
  const layers = new Map((cost.layers ?? []).map((layer) => [layer.layer, layer]));
  const rows = found.layers.map((layer) => {
    const known = layers.get(layer.layer) ?? {};
    const size = known.output_extent ?? {};
    return [layer.layer, spell(layer.channels), known.output_channels ?? "–", known.output_extent ? `${size.depth ?? 1}×${size.height ?? 1}×${size.width ?? 1}` : "–", si(known.param_count ?? 0), macs(known.mac_count ?? 0)];
  });
  return [el("div", {}, el("h1", {}, origins(found)), el("p", { class: "lead mono" }, found.digest)),
    el("section", { class: "plate", "aria-label": "Cost" }, facts([["Multiply-accumulates", `${macs(cost.mac_count)} (${share(cost.mac_fraction ?? 0)} of all-3x3x3)`], ["Parameters", `${si(cost.param_count)} (${count(cost.param_count)})`], ["Activations", si(cost.activation_count)], ["For a patch of", per], ["First derived", clock(found.create_time)], ["Channels in all", spell(total(found.layers))]]),
      el("p", { class: "row" }, search ? link(`/searches/${search}`, "Its search") : null, link(`/diff?a=${found.digest}${search ? `&search=${search}` : ""}`, "Compare with another"))),
    notes(found.notes),
    el("section", { class: "plate" }, el("h2", {}, "Channels per layer"), legend(used(found.layers)), composition(origins(found), found.layers, { withTable: false })),
    el("section", { class: "plate" }, el("h2", {}, "Layer by layer"), table("Searchable layers with their cost", [["Layer"], ["Channels by kernel", "long"], ["Width", "num"], ["Extent", "num wide"], ["Parameters", "num wide"], ["MACs", "num"]], rows),
      el("p", { class: "quiet" }, "Export it with ", code(`cakes arch export ${found.digest.slice(0, 12)}`)))];
}
