// All jobs, a page at a time.

import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { count, duration, quality, short } from "/assets/lib/format.js";
import { badge, bar, choice, code, empty, search, section, since, table } from "/assets/lib/widgets.js";

export const title = "Jobs";

const STATES = ["queued", "leased", "running", "pausing", "paused", "succeeded", "failed", "cancelling", "cancelled"];

/// How far it is, in steps.
export function done(job) {
  if (job.state === "succeeded") return 1;
  return job.progress ? job.progress.step / Math.max(1, job.progress.step_count) : 0;
}

function rest(job) {
  if (job.state === "running" && job.progress?.remaining_s) return `${duration(job.progress.remaining_s)} left`;
  if (job.start_time && job.end_time) return duration((new Date(job.end_time) - new Date(job.start_time)) / 1000);
  return "–";
}

export function jobTable(jobs, withSearch) {
  const columns = [["Job"], ["State"], ["Progress"], ["Quality", "num"], ["Time", "tight wide"], ["Worker", "wide"], ["Attempts", "num wide"], ["Queued", "tight wide"]];
  const rows = jobs.map((job) => [
    el("span", {}, link(`/jobs/${job.id}`, job.label), withSearch && job.search ? el("span", { class: "quiet" }, " of ", link(`/searches/${job.search}`, short(job.search), { "data-key": `search of ${job.id}` })) : null),
    badge(job.state), bar(done(job), `progress of ${job.label}`),
    quality(job.result?.quality ?? job.progress?.quality), rest(job), job.worker ?? "–", job.attempt_count, since(job.create_time)]);
  return table("Jobs, newest first", columns, rows);
}

export function show({ host, query, signal }) {
  const filter = { state: query.state ?? "", kind: query.kind ?? "", text: query.text ?? "", search: query.search ?? "", after: query.after ?? "" };
  const list = el("section", { class: "plate", "aria-label": "Jobs" });
  const set = (name, value) => {
    Object.assign(filter, { after: "", [name]: value });
    history.replaceState(null, "", address("", filter).replace("/api/v1", "/jobs"));
    refresh();
  };
  host.append(el("div", {}, el("h1", {}, "Jobs"), filter.search ? el("p", { class: "lead" }, "Of the search ", link(`/searches/${filter.search}`, short(filter.search)), ". ", link("/jobs", "All jobs")) : el("p", { class: "lead" }, "Each is one training.")),
    el("div", { class: "row" }, search("Label or id", filter.text, (value) => set("text", value)),
      choice("Kind", [["", "all"], ["supernet", "supernet"], ["retrain", "retrain"]], filter.kind, (value) => set("kind", value))), list);
  const refresh = section(list, { urls: () => [address("/jobs", filter)], draw: (page) => draw(page, filter, set), signal });
}

function draw({ jobs, next, counts }, filter, set) {
  const all = Object.values(counts).reduce((sum, part) => sum + part, 0);
  const button = (state, text, number) => el("button", { type: "button", "aria-pressed": String(filter.state === state), "data-key": `state ${state}`, onclick: () => set("state", state) }, `${text} ${count(number)}`);
  const states = el("div", { class: "counts", role: "group", "aria-label": "Only jobs in one state" }, button("", "all", all), STATES.filter((state) => counts[state] || filter.state === state).map((state) => button(state, state, counts[state] ?? 0)));
  if (jobs.length === 0) {
    if (all > 0 || filter.text || filter.kind || filter.state) return [states, empty("No job matches.", "Choose another state, or clear the text.")];
    return empty("There are no jobs yet.", el("span", {}, "Submit a search with ", code("cakes search submit FILE"), "."));
  }
  const to = (after) => `/jobs?${new URLSearchParams(Object.entries({ ...filter, after }).filter(([, value]) => value !== ""))}`;
  return [states, jobTable(jobs, true), el("nav", { class: "row", "aria-label": "Pages of the list" }, filter.after ? link(to(""), "Newest") : null, el("span", { class: "quiet" }, `${count(jobs.length)} shown`), next ? link(to(next), "Older", { class: "push" }) : null)];
}
