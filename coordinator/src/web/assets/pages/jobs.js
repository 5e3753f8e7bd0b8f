// All jobs, in a list that fetches what is looked at.

import { address, get } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { count, duration, quality, short } from "/assets/lib/format.js";
import { OffsetSource } from "/assets/lib/sources.js";
import { virtualList } from "/assets/lib/virtual.js";
import { badge, bar, choice, code, empty, labelFilter, labels, search, since } from "/assets/lib/widgets.js";

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

const COLUMNS = [["Job", null, "minmax(9rem, 3fr)", "minmax(0, 1fr)"], ["State", null, "6.2rem", "6rem"], ["Progress", null, "minmax(6.5rem, 1fr)", "5.6rem"], ["Quality", "num wide", "5rem"], ["Time", "wide", "7rem"], ["Worker", "wide", "minmax(5rem, 1fr)"], ["Attempts", "num wide", "5rem"], ["Queued", "wide", "7rem"]];
const PAGE = 200;

/// A list of the jobs that a filter leaves; gives a function that shows another filter's.
export function jobList(host, filter, { withSearch, before, none, concerns, signal }) {
  const cells = (job) => [
    el("span", {}, link(`/jobs/${job.id}`, job.label), withSearch && job.search ? el("span", { class: "quiet" }, " of ", link(`/searches/${job.search}`, short(job.search), { "data-key": `search of ${job.id}` })) : null, " ", labels(job.labels, "/jobs", job.id)),
    badge(job.state), bar(done(job), `progress of ${job.label}`),
    quality(job.result?.quality ?? job.progress?.quality), rest(job), job.worker ?? "–", job.attempt_count, since(job.create_time)];
  // By place, so that the end is as near as the beginning.
  const source = (wanted) => new OffsetSource(async (offset) => {
    const { data } = await get(address("/jobs", { ...wanted, offset, limit: PAGE }), signal);
    const counts = wanted.state ? [data.counts[wanted.state] ?? 0] : Object.values(data.counts);
    return { rows: data.jobs, total: counts.reduce((sum, part) => sum + part, 0), answer: data };
  }, PAGE);
  const show = virtualList(host, { caption: "Jobs, newest first", columns: COLUMNS, source: source(filter), cells, before, none, concerns, signal });
  return (wanted) => show(source(wanted));
}

export function show({ host, query, signal }) {
  const filter = { state: query.state ?? "", kind: query.kind ?? "", text: query.text ?? "", label: query.label ?? "", search: query.search ?? "" };
  const list = el("section", { class: "plate", "aria-label": "Jobs" });
  const set = (name, value) => {
    filter[name] = value;
    history.replaceState(null, "", address("", filter).replace("/api/v1", "/jobs"));
    showFilter({ ...filter });
  };
  host.append(el("div", {}, el("h1", {}, "Jobs"), filter.search ? el("p", { class: "lead" }, "Of the search ", link(`/searches/${filter.search}`, short(filter.search)), ". ", link("/jobs", "All jobs")) : el("p", { class: "lead" }, "Each is one training.")),
    el("div", { class: "row" }, search("Name or id", filter.text, (value) => set("text", value)),
      choice("Kind", [["", "all"], ["supernet", "supernet"], ["retrain", "retrain"]], filter.kind, (value) => set("kind", value)), labelFilter(filter.label, (value) => set("label", value))), list);
  const showFilter = jobList(list, { ...filter }, { withSearch: true, before: (answer) => answer && states(answer, filter, set), none: () => nothing(filter), signal });
}

function states({ counts }, filter, set) {
  const all = Object.values(counts).reduce((sum, part) => sum + part, 0);
  const button = (state, text, number) => el("button", { type: "button", "aria-pressed": String(filter.state === state), "data-key": `state ${state}`, onclick: () => set("state", state) }, `${text} ${count(number)}`);
  return el("div", { class: "counts", role: "group", "aria-label": "Only jobs in one state" }, button("", "all", all), STATES.filter((state) => counts[state] || filter.state === state).map((state) => button(state, state, counts[state] ?? 0)));
}

function nothing(filter) {
  if (filter.text || filter.kind || filter.state || filter.label) return empty("No job matches.", "Choose another state, or clear the text and the labels.");
  return empty("There are no jobs yet.", el("span", {}, "Submit a search with ", code("cakes search submit FILE"), "."));
}
