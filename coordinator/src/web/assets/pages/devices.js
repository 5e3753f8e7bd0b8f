// Which device ran what and when.

import { timeline } from "/assets/charts/timeline.js";
import { go } from "/assets/app.js";
import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, duration } from "/assets/lib/format.js";
import { choice, code, empty, section, table } from "/assets/lib/widgets.js";

export const title = "Devices";

const HOURS = [["0.25", "15 minutes"], ["1", "hour"], ["6", "6 hours"], ["24", "day"], ["168", "week"], ["720", "30 days"]];

export function show({ host, query, signal }) {
  let hours = HOURS.some(([known]) => known === query.hours) ? query.hours : "6";
  const plate = el("section", { class: "plate", "aria-label": "Timeline" });
  host.append(el("div", {}, el("h1", {}, "Devices"), el("p", { class: "lead" }, "What each of them ran: one bar per attempt.")), el("div", { class: "row" }, choice("The last", HOURS, hours, (value) => {
    hours = value;
    history.replaceState(null, "", `/devices?hours=${value}`);
    refresh();
  })), plate);
  const refresh = section(plate, {
    urls: () => [address("/timeline", { hours })],
    draw: ({ spans, from, to, more }) => {
      if (spans.length === 0) return empty("Nothing ran in this time.", el("span", {}, "Look further back, or start a worker with ", code("cakes-worker --server http://127.0.0.1:7550"), "."));
      const rows = spans.slice(0, 200).map((span) => [link(`/jobs/${span.job}`, span.label), `${span.worker}, ${span.device}`, span.epoch, span.outcome, clock(span.grant_time), span.end_time ? duration((new Date(span.end_time) - new Date(span.grant_time)) / 1000) : "goes on"]);
      const busy = share(spans, from, to);
      return [el("p", { class: "quiet" }, busy.map(([lane, part]) => `${lane}: ${Math.round(100 * part)} % busy`).join(" · ")),
        timeline({ title: "Attempts by device", about: more ? "Only the newest 1000 attempts are shown." : null, spans, from, to, open: (span) => go(`/jobs/${span.job}`), table: table("Attempts, newest first", [["Job"], ["Device"], ["Attempt", "num"], ["Outcome"], ["Granted", "tight"], ["Took", "tight"]], rows) })];
    },
    signal,
  });
}

/// How much of the time each device was given to a job, for a handful of devices.
function share(spans, from, to) {
  const [start, end] = [new Date(from).getTime(), new Date(to).getTime()];
  const sums = new Map();
  for (const span of spans) {
    const [begin, stop] = [Math.max(start, new Date(span.grant_time).getTime()), Math.min(end, span.end_time ? new Date(span.end_time).getTime() : end)];
    const lane = `${span.worker} ${span.device}`;
    sums.set(lane, (sums.get(lane) ?? 0) + Math.max(0, stop - begin) / (end - start));
  }
  return [...sums].sort().slice(0, 8);
}
