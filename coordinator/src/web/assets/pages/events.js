// What happened, newest first.

import { address, get } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, short, words } from "/assets/lib/format.js";
import { CursorSource } from "/assets/lib/sources.js";
import { virtualList } from "/assets/lib/virtual.js";
import { empty, search, table } from "/assets/lib/widgets.js";

export const title = "Events";

function details(event) {
  const parts = Object.entries(event.body ?? {}).filter(([, value]) => value !== null && value !== "" && typeof value !== "object").map(([name, value]) => `${words(name)}: ${value}`);
  return parts.join(", ") || "–";
}

const what = (event) => `${words(event.kind)}${event.epoch ? ` (attempt ${event.epoch})` : ""}`;
const when = (event) => el("time", { datetime: event.time, class: "mono" }, clock(event.time));

/// Events of one job.
export function eventTable(events) {
  if (events.length === 0) return empty("Nothing has happened yet.");
  const columns = [["When", "tight"], ["What", "tight"], ["Worker", "wide"], ["Details", "long"]];
  return table("Events, newest first", columns, events.map((event) => [when(event), what(event), event.worker ?? "–", details(event)]));
}

const COLUMNS = [["When", null, "6.5rem", "5.8rem"], ["What", null, "minmax(7rem, 1.5fr)", "minmax(0, 1fr)"], ["About", null, "minmax(7rem, 2fr)", "minmax(0, 1.1fr)"], ["Worker", "wide", "minmax(5rem, 1fr)"], ["Details", "wide", "minmax(9rem, 4fr)"]];
const PAGE = 200;

/// A list of the events that a filter leaves; gives a function that shows another filter's.
export function eventList(host, filter, { concerns, signal }) {
  const about = (event) => [event.job ? link(`/jobs/${event.job}`, event.label ?? short(event.job), { "data-key": `job of ${event.id}` }) : null, !event.job && event.search ? link(`/searches/${event.search}`, `search ${short(event.search)}`, { "data-key": `search of ${event.id}` }) : null, !event.job && !event.search ? event.worker : null];
  const cells = (event) => [when(event), what(event), el("span", {}, about(event)), event.worker ?? "–", details(event)];
  const source = (wanted) => new CursorSource(async (after) => {
    const { data } = await get(address("/events", { ...wanted, after, limit: PAGE }), signal);
    return { rows: data.events, next: data.next, answer: data };
  }, (event) => event.id);
  const none = () => empty("Nothing has happened yet.");
  const show = virtualList(host, { caption: "Events, newest first", columns: COLUMNS, source: source(filter), cells, none, concerns, signal });
  return (wanted) => show(source(wanted));
}

export function show({ host, query, signal }) {
  const filter = { search: query.search ?? "", worker: query.worker ?? "", kind: query.kind ?? "" };
  const list = el("section", { class: "plate", "aria-label": "Events" });
  const set = (name, value) => {
    filter[name] = value;
    history.replaceState(null, "", address("", filter).replace("/api/v1", "/events"));
    showFilter({ ...filter });
  };
  host.append(el("div", {}, el("h1", {}, "Events"), el("p", { class: "lead" }, filter.search ? link("/events", "All events") : "Of searches, jobs and workers.")),
    el("div", { class: "row" }, search("Kind, as in job_failed", filter.kind, (value) => set("kind", value.trim())), search("Worker", filter.worker, (value) => set("worker", value.trim()))), list);
  const showFilter = eventList(list, { ...filter }, { signal });
}
