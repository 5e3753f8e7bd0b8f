// Two architectures, layer by layer.

import { legend, stack } from "/assets/charts/composition.js";
import { go } from "/assets/app.js";
import { address } from "/assets/lib/api.js";
import { KERNELS, origins, spell, used } from "/assets/lib/architecture.js";
import { el, link } from "/assets/lib/dom.js";
import { macs, share, si } from "/assets/lib/format.js";
import { choice, empty, section, table } from "/assets/lib/widgets.js";

export const title = "Difference";

export function show({ host, query, signal }) {
  const { a, b, search } = query;
  const to = (name) => (value) => go(address("", { ...query, [name]: value }).replace("/api/v1", "/diff"));
  const choosers = el("div", { class: "row" });
  const body = el("div", { class: "page" });
  host.append(el("h1", {}, "Two architectures, layer by layer"), choosers, body);
  if (search) {
    section(choosers, {
      urls: () => [address(`/searches/${search}/architectures`, { limit: 100 })],
      draw: ({ architectures = [] }) => {
        const options = [["", "choose"], ...architectures.map((known) => [known.digest, origins(known)])];
        return [choice("First", options, a ?? "", to("a")), choice("Second", options, b ?? "", to("b"))];
      },
      concerns: () => false, signal,
    });
  }
  if (!a || !b) {
    body.append(empty("Two architectures are needed.", search ? "Choose a second one above." : "Open a search and tick two of its architectures."));
    return;
  }
  section(body, { urls: () => [address(`/architectures/${a}`), address(`/architectures/${b}`)], draw: (first, second) => draw(first, second, search), concerns: () => false, signal });
}

function signed(value) {
  return value > 0 ? `+${value}` : `−${-value}`;
}

function changes(first, second) {
  return KERNELS.map(([kernel]) => [kernel, (second[kernel] ?? 0) - (first[kernel] ?? 0)]).filter(([, change]) => change !== 0).map(([kernel, change]) => `${kernel}\u00a0${signed(change)}`).join(", ");
}

function draw(first, second, search) {
  const other = new Map(second.layers.map((layer) => [layer.layer, layer.channels]));
  const names = [...new Set([...first.layers, ...second.layers].map((layer) => layer.layer))];
  const own = new Map(first.layers.map((layer) => [layer.layer, layer.channels]));
  let equal = 0;
  const rows = names.map((name) => {
    const [one, two] = [own.get(name), other.get(name)];
    if (!one || !two) return [name, "", one ? spell(one) : "–", two ? spell(two) : "–", one ? "only in the first" : "only in the second"];
    const text = changes(one, two);
    if (!text) equal += 1;
    const kind = text ? null : "diff-same";
    return [el("span", { class: kind }, name), el("span", { class: "diff-bars" }, stack(one), stack(two)), el("span", { class: kind }, spell(one)), el("span", { class: kind }, spell(two)), text || "the same"];
  });
  const cost = (known) => `${macs(known.cost.mac_count)} (${share(known.cost.mac_fraction ?? 0)}), ${si(known.cost.param_count)} parameters`;
  const to = (known) => link(`/architectures/${known.digest}${search ? `?search=${search}` : ""}`, origins(known));
  return [el("section", { class: "plate split", "aria-label": "The two" }, el("div", {}, el("h2", {}, "First: ", to(first)), el("p", { class: "quiet" }, cost(first))), el("div", {}, el("h2", {}, "Second: ", to(second)), el("p", { class: "quiet" }, cost(second)))),
    el("section", { class: "plate" }, el("h2", {}, equal === names.length ? "They are the same" : `${names.length - equal} of ${names.length} layers differ`), legend(used([...first.layers, ...second.layers])),
      table("Layers of both architectures", [["Layer"], ["First above second"], ["First", "long wide"], ["Second", "long wide"], ["Change", "long"]], rows))];
}
