// What happened, newest first.

import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, short, words } from "/assets/lib/format.js";
import { empty, search, section, table } from "/assets/lib/widgets.js";

export const title = "Events";

function details(event) {
  const parts = Object.entries(event.body ?? {}).filter(([, value]) => value !== null && value !== "" && typeof value !== "object").map(([name, value]) => `${words(name)}: ${value}`);
  return parts.join(", ") || "–";
}

/// Without `all` columns, events of one job.
export function eventTable(events, ofOneJob = false) {
  if (events.length === 0) return empty("Nothing has happened yet.");
  const about = (event) => [event.job ? link(`/jobs/${event.job}`, event.label ?? short(event.job), { "data-key": `job of ${event.id}` }) : null, !event.job && event.search ? link(`/searches/${event.search}`, `search ${short(event.search)}`, { "data-key": `search of ${event.id}` }) : null, !event.job && !event.search ? event.worker : null];
  const columns = ofOneJob ? [["When", "tight"], ["What", "tight"], ["Worker", "wide"], ["Details", "long"]] : [["When", "tight"], ["What", "tight"], ["About"], ["Worker", "wide"], ["Details", "long wide"]];
  const rows = events.map((event) => {
    const when = el("time", { datetime: event.time, class: "mono" }, clock(event.time));
    const what = `${words(event.kind)}${event.epoch ? ` (attempt ${event.epoch})` : ""}`;
    return ofOneJob ? [when, what, event.worker ?? "–", details(event)] : [when, what, el("span", {}, about(event)), event.worker ?? "–", details(event)];
  });
  return table("Events, newest first", columns, rows);
}

export function show({ host, query, signal }) {
  const filter = { search: query.search ?? "", worker: query.worker ?? "", kind: query.kind ?? "", after: query.after ?? "" };
  const list = el("section", { class: "plate", "aria-label": "Events" });
  const set = (name, value) => {
    Object.assign(filter, { after: "", [name]: value });
    history.replaceState(null, "", address("", filter).replace("/api/v1", "/events"));
    refresh();
  };
  host.append(el("div", {}, el("h1", {}, "Events"), el("p", { class: "lead" }, filter.search ? link("/events", "All events") : "Of searches, jobs and workers.")),
    el("div", { class: "row" }, search("Kind, as in job_failed", filter.kind, (value) => set("kind", value.trim())), search("Worker", filter.worker, (value) => set("worker", value.trim()))), list);
  const refresh = section(list, {
    urls: () => [address("/events", filter)],
    draw: ({ events, next }) => [eventTable(events), el("nav", { class: "row", "aria-label": "Pages of the list" }, filter.after ? link("/events", "Newest") : null, next ? link(`/events?${new URLSearchParams({ ...filter, after: next })}`, "Older", { class: "push" }) : null)],
    signal,
  });
}
