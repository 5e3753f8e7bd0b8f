// All searches.

import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { metric, quality, short, words } from "/assets/lib/format.js";
import { badge, bar, choice, code, empty, labelFilter, labels, search, section, since, table } from "/assets/lib/widgets.js";

export const title = "Searches";

const STATES = ["searching", "retraining", "succeeded", "failed", "cancelled"];
const COLUMNS = [["Search"], ["State"], ["Progress"], ["Jobs", "num wide"], ["Best", "num"], ["Backbone", "wide"], ["Submitted", "tight wide"]];

export function show({ host, query, signal }) {
  const filter = { state: query.state ?? "", text: query.text ?? "", label: query.label ?? "", after: query.after ?? "" };
  const list = el("section", { class: "plate", "aria-label": "Searches" });
  const set = (name, value) => {
    Object.assign(filter, { after: "", [name]: value });
    history.replaceState(null, "", address("", filter).replace("/api/v1", "/searches"));
    refresh();
  };
  host.append(el("div", {}, el("h1", {}, "Searches"), el("p", { class: "lead" }, "Each trains a supernet, derives architectures from it, and retrains them.")),
    el("div", { class: "row" }, search("Name or id", filter.text, (value) => set("text", value)),
      choice("State", [["", "all"], ...STATES.map((state) => [state, state])], filter.state, (value) => set("state", value)), labelFilter(filter.label, (value) => set("label", value))), list);
  const refresh = section(list, {
    urls: () => [address("/searches", filter)],
    draw: ({ searches, next }) => draw(searches, next, filter),
    signal,
  });
}

function draw(searches, next, filter) {
  if (searches.length === 0) {
    if (filter.state || filter.text || filter.label) return empty("No search matches.", "Choose another state, or clear the text and the labels.");
    return empty("There are no searches yet.", el("span", {}, "Submit one with ", code("cakes search submit deploy/examples/phantoms.json"), "."),
      el("span", {}, "A worker must run as well: ", code("cakes-worker --server http://127.0.0.1:7550"), "."));
  }
  const rows = searches.map((found) => [
    el("span", {}, link(`/searches/${found.id}`, found.name), " ", el("span", { class: "quiet mono" }, short(found.id)), " ", labels(found.labels, "/searches", found.id)),
    el("span", {}, badge(found.state), found.imported ? el("span", { class: "quiet" }, " imported") : null),
    bar(found.step_share, `progress of ${found.name}`),
    `${found.succeeded_count} of ${found.job_count}${found.failed_count ? `, ${found.failed_count} failed` : ""}`,
    found.best_quality === null ? "–" : el("span", { title: metric(found.quality_metric) }, quality(found.best_quality)),
    words(found.backbone),
    since(found.create_time),
  ]);
  const more = next ? el("p", { class: "row" }, el("span", { class: "push" }, link(`/searches?${new URLSearchParams({ ...filter, after: next })}`, "Older searches"))) : null;
  return [table("Searches", COLUMNS, rows), more];
}
