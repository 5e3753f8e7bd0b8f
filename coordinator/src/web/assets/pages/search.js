// One search: its front, what it found, and its jobs.

import { composition, legend } from "/assets/charts/composition.js";
import { heat } from "/assets/charts/heat.js";
import { histogram } from "/assets/charts/histogram.js";
import { scatter } from "/assets/charts/scatter.js";
import { go } from "/assets/app.js";
import { searchActions } from "/assets/lib/actions.js";
import { address } from "/assets/lib/api.js";
import { front, isBaseline, isRandom, origins, used } from "/assets/lib/architecture.js";
import { el, link } from "/assets/lib/dom.js";
import { deviceTime, deviceTimeUsed, macs, metric, milliseconds, quality, share, short, si, words } from "/assets/lib/format.js";
import { badge, bar, choice, code, empty, facts, labels, notes, section, since, table, wishes } from "/assets/lib/widgets.js";
import { session } from "/assets/lib/session.js";
import { showDerive } from "/assets/pages/derive.js";
import { jobList } from "/assets/pages/jobs.js";
import { eventList } from "/assets/pages/events.js";

export const title = "Search";

const VIEWS = [["front", "Front"], ["composition", "Composition"], ["epochs", "Over the epochs"], ["scores", "Scores"], ["jobs", "Jobs"], ["events", "Events"], ["spec", "Description"], ["derive", "Derive"]];

const COSTS = {
  macs: { name: "MACs", of: (entry) => Number(entry.architecture.cost.mac_count ?? 0), text: macs, title: "multiply-accumulates of a patch" },
  parameters: { name: "parameters", of: (entry) => Number(entry.architecture.cost.param_count ?? 0), text: (value) => si(value), title: "parameters" },
  latency: { name: "latency", of: (entry) => entry.latency_ms ?? 0, text: milliseconds, title: "time of a forward pass" },
};

export function show(context) {
  const { host, id, query, signal } = context;
  const view = VIEWS.some(([name]) => name === query.view) ? query.view : "front";
  const head = el("div", { class: "head" });
  const shown = VIEWS.filter(([name]) => name !== "derive" || session.may("preview_derivation") || view === "derive");
  const tabs = el("nav", { "aria-label": "Views of this search" }, el("ul", { class: "tabs" }, shown.map(([name, text]) => el("li", {}, link(`/searches/${id}?view=${name}`, text, { "aria-current": name === view ? "page" : null })))));
  const body = el("div", { class: "page" });
  host.append(head, tabs, body);
  const concerns = (change) => change.searches.some((changed) => changed.startsWith(id) || id.startsWith(changed));
  section(head, { urls: () => [address(`/searches/${id}`)], draw: (found) => {
    context.title(found.search.name);
    return summary(found);
  }, concerns, signal });
  DRAWN[view]({ ...context, host: body, concerns });
}

function summary({ search, placement, job_counts: counts, notes: given }) {
  const parts = Object.entries(counts).sort().map(([state, count]) => link(`/jobs?search=${search.id}&state=${state}`, `${count} ${state}`));
  return [el("h1", {}, search.name),
    el("div", { class: "row centre" }, badge(search.state), search.imported ? el("span", { class: "quiet" }, "imported: read here, never run") : null, bar(search.step_share, "progress of the search"),
      el("span", { class: "quiet" }, "submitted ", since(search.create_time)), el("span", { class: "quiet mono" }, short(search.id)),
      el("span", { class: "row centre quiet" }, parts)),
    search.state_reason ? el("p", { class: "quiet" }, search.state_reason) : null, labels(search.labels, "/searches", search.id), searchActions(search), placed(placement), notes(given)];
}

/// Where its jobs may run, until when and for how much; nothing for a search that leaves all of it open.
function placed(placement) {
  const { cost_limit_device_s: limit, spent_device_s: spent } = placement;
  const known = [...wishes(placement), limit === null ? null : ["Limit of each job", deviceTime(limit)], spent === null ? null : ["Taken by all jobs", deviceTimeUsed(spent)]].filter(Boolean);
  return known.length === 0 ? null : el("section", { class: "plate", "aria-label": "Placement" }, facts(known));
}

const DRAWN = { front: showFront, composition: showComposition, epochs: showEpochs, scores: showScores, jobs: showJobs, events: showEvents, spec: showSpec, derive: showDerive };

const nothingYet = (id) => empty("No architecture is retrained yet.", "The front appears here with the first result.",
  link(`/searches/${id}?view=jobs`, "See how far the jobs are"));

function showFront({ host, id, query, signal, concerns }) {
  let cost = COSTS[query.cost] ? query.cost : "macs";
  const plate = el("section", { class: "plate", "aria-label": "Front" });
  host.append(plate);
  const refresh = section(plate, {
    urls: () => [address(`/searches/${id}/front`)],
    draw: (found) => {
      const entries = found.entries ?? [];
      if (entries.length === 0) return nothingYet(id);
      return drawFront(id, entries, found, cost, (value) => {
        cost = value;
        history.replaceState(null, "", `/searches/${id}?view=front&cost=${value}`);
        refresh();
      });
    },
    concerns, signal, spoken: "The front has changed.",
  });
}

function drawFront(id, entries, found, chosen, change) {
  const cost = COSTS[chosen];
  const name = metric(entries[0].quality_metric);
  const points = entries.map((entry) => ({ entry, key: entry.architecture.digest, name: origins(entry.architecture), cost: cost.of(entry), quality: entry.quality ?? 0, deviation: entry.quality_deviation ?? 0,
    kind: isBaseline(entry.architecture) ? "baseline" : isRandom(entry.architecture) ? "random" : "derived" }));
  const best = new Set(front(points).map((point) => point.key));
  for (const point of points) {
    point.onFront = best.has(point.key);
    point.lines = [point.name, `${name} ${quality(point.quality)}${point.deviation ? ` ± ${point.deviation.toFixed(4)}` : ""}`, `${macs(point.entry.architecture.cost.mac_count)}, ${si(point.entry.architecture.cost.param_count)} parameters`, `${milliseconds(point.entry.latency_ms)} on ${point.entry.device}`, point.onFront ? "on the front" : "not on the front"];
  }
  const pending = found.pending_count ?? 0;
  const chart = scatter({ title: `${name} against ${cost.name}`, about: pending ? `${pending} retrainings have not ended yet.` : "All retrainings have ended.", points, costTitle: cost.title, costText: cost.text, qualityTitle: name, open: (point) => go(`/architectures/${point.key}?search=${id}`) });
  return [el("div", { class: "row" }, choice("Cost", Object.entries(COSTS).map(([key, known]) => [key, known.name]), chosen, change)), chart,
    el("h2", {}, "Retrained architectures"), frontTable(id, points, name)];
}

function frontTable(id, points, name) {
  const chosen = new Set();
  const button = el("button", { type: "button", disabled: true, onclick: () => {
    const [a, b] = [...chosen];
    go(`/diff?a=${a}&b=${b}&search=${id}`);
  } }, "Compare two");
  const tick = (point) => el("input", { type: "checkbox", "aria-label": `compare ${point.name}`, "data-key": `compare ${point.key}`, onchange: (event) => {
    if (event.target.checked) chosen.add(point.key);
    else chosen.delete(point.key);
    button.disabled = chosen.size !== 2;
  } });
  const columns = [["Architecture"], ["", "wide"], [name, "num"], ["MACs", "num"], ["Share", "num wide"], ["Parameters", "num wide"], ["Latency", "num"], ["Seeds", "num wide"], ["", "tight"]];
  const rows = [...points].sort((left, right) => left.cost - right.cost).map((point) => {
    const { cost } = point.entry.architecture;
    return [link(`/architectures/${point.key}?search=${id}`, point.name), point.onFront ? "front" : "",
      `${quality(point.quality)}${point.deviation ? ` ± ${point.deviation.toFixed(4)}` : ""}`, macs(cost.mac_count), share(cost.mac_fraction ?? 0), si(cost.param_count),
      milliseconds(point.entry.latency_ms), point.entry.seed_count, tick(point)];
  });
  return [table("Retrained architectures by rising cost", columns, rows), el("p", { class: "row" }, button, el("span", { class: "quiet" }, "tick two of them to see where they differ, layer by layer"))];
}

function showComposition({ host, id, signal, concerns }) {
  const plate = el("section", { class: "plate", "aria-label": "Composition" });
  host.append(plate);
  section(plate, {
    urls: () => [address(`/searches/${id}/architectures`, { limit: 60 })],
    draw: ({ architectures = [] }) => {
      if (architectures.length === 0) return empty("Nothing is derived yet.", "Architectures appear here when the supernet is trained.");
      const sorted = [...architectures].sort((left, right) => Number(left.cost.mac_count) - Number(right.cost.mac_count));
      return [el("h2", {}, "Channels per layer"), legend(used(sorted.flatMap((known) => known.layers))),
        el("div", { class: "cards" }, sorted.map((known) => el("article", { class: "card" }, el("h3", {}, link(`/architectures/${known.digest}?search=${id}`, origins(known))),
          el("p", { class: "quiet" }, `${macs(known.cost.mac_count)} (${share(known.cost.mac_fraction ?? 0)}), ${si(known.cost.param_count)} parameters`), composition(origins(known), known.layers))))];
    },
    concerns, signal,
  });
}

function showEpochs({ host, id, query, signal, concerns }) {
  let kernel = query.kernel ?? "";
  const plate = el("section", { class: "plate", "aria-label": "Composition over the epochs" });
  host.append(plate);
  const refresh = section(plate, {
    urls: () => [address(`/searches/${id}/composition`)],
    draw: ({ evaluations }) => {
      if (evaluations.length === 0) return empty("The supernet has not been validated yet.", "What it would derive is recorded at every validation.");
      const kernels = used(evaluations.flatMap((known) => known.layers));
      const columns = evaluations.map((known) => ({ name: `epoch ${known.epoch}`, short: String(known.epoch), layers: known.layers }));
      const chooser = choice("Kernel", [["", "the one with most channels"], ...kernels.map((known) => [known, known])], kernel, (value) => {
        kernel = value;
        refresh();
      });
      return [el("div", { class: "row" }, chooser), legend(kernels),
        heat({ title: kernel ? `Share of ${kernel} in every layer` : "Kernel with most channels of every layer", about: "What the paper's rule would derive at each validation of the supernet; the stronger the colour, the larger its share.", columns, kernel, columnTitle: "epoch" })];
    },
    concerns, signal,
  });
}

function showScores({ host, id, query, signal, concerns }) {
  const filter = { layer: query.layer ?? "", architecture: query.architecture ?? "" };
  const plate = el("section", { class: "plate", "aria-label": "Scores" });
  host.append(plate);
  const refresh = section(plate, {
    urls: () => [address(`/searches/${id}/scores`, filter), address(`/searches/${id}`), address(`/searches/${id}/architectures`, { limit: 60 })],
    draw: (found, { layers }, { architectures = [] }) => {
      if (!found) return empty("There are no scores yet.", "They are stored when the supernet has succeeded.");
      const set = (name) => (value) => {
        filter[name] = value;
        history.replaceState(null, "", address(`/searches/${id}`, { view: "scores", ...filter }).replace("/api/v1", ""));
        refresh();
      };
      const { kernels, max } = found.histogram;
      const highest = Math.max(...kernels.flatMap((known) => known.counts));
      return [el("div", { class: "row" },
        choice("Layer", [["", "all layers"], ...layers.map((layer) => [layer.name, layer.name])], filter.layer, set("layer")),
        choice("Channels kept by", [["", "the paper's rule"], ...architectures.filter((known) => !isBaseline(known)).map((known) => [known.digest, origins(known)])], filter.architecture, set("architecture"))),
        el("p", { class: "quiet" }, "Solid: kept. Pale: not kept.", filter.layer ? " The dashed line is the lowest |γ| that is kept." : " Every layer has a cut of its own; choose one to see it."),
        el("div", { class: "small-multiples" }, kernels.map((known) => histogram(known, { max, highest, oneLayer: Boolean(filter.layer) })))];
    },
    concerns, signal,
  });
}

function showJobs({ host, id, signal, concerns }) {
  const plate = el("section", { class: "plate", "aria-label": "Jobs" });
  host.append(plate);
  const before = (answer) => {
    const ids = (answer?.jobs ?? []).filter((job) => job.progress).slice(0, 12).map((job) => job.id).join(",");
    return ids ? el("p", {}, link(`/curves?jobs=${ids}`, "Compare their learning curves")) : null;
  };
  jobList(plate, { search: id }, { withSearch: false, before, none: () => empty("No job is queued yet.", "The supernet is queued first."), concerns, signal });
}

function showEvents({ host, id, signal, concerns }) {
  const plate = el("section", { class: "plate", "aria-label": "Events" });
  host.append(plate);
  eventList(plate, { search: id }, { concerns, signal });
}

function showSpec({ host, id, signal }) {
  const plate = el("section", { class: "plate", "aria-label": "Description" });
  host.append(plate);
  section(plate, {
    urls: () => [address(`/searches/${id}`)],
    draw: ({ spec, search, kernels, layers }) => [facts([["Backbone", words(search.backbone)], ["Kernels", kernels.join(", ")], ["Searchable layers", layers.length], ["Budgets", (spec.budgets ?? []).join(", ") || "none"]]),
      el("h2", {}, "As submitted, every default written out"), el("pre", { class: "spec mono", tabindex: 0, "aria-label": "description as JSON" }, JSON.stringify(spec, null, 2)),
      el("p", { class: "quiet" }, "The same from a terminal: ", code(`cakes search get ${short(id)} -o json`))],
    concerns: () => false, signal,
  });
}

