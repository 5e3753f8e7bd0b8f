// Jobs that wait, in the order in which they are served.

import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { count, mebibytes, short } from "/assets/lib/format.js";
import { code, empty, section, since, table } from "/assets/lib/widgets.js";

export const title = "Queue";

const PAGE = 100;

export function show({ host, query, signal }) {
  const offset = Math.max(0, Number.parseInt(query.offset ?? "0", 10) || 0);
  const list = el("section", { class: "plate", "aria-label": "Queue" });
  host.append(el("div", {}, el("h1", {}, "Queue"), el("p", { class: "lead" }, "In this order, within what fits a free device. A job that is tried again keeps its place.")), list);
  section(list, {
    urls: () => [address("/queue", { offset, limit: PAGE })],
    draw: ({ length, jobs }) => {
      if (jobs.length === 0) return length > 0 ? empty("The queue is shorter than that.", link("/queue", "Its front")) : empty("Nothing waits.", el("span", {}, "Every job is given to a worker or has ended. Submit a search with ", code("cakes search submit FILE"), "."));
      const columns = [["Position", "num"], ["Job", "long"], ["Why it waits", "long"], ["Memory", "num wide"], ["Priority", "num wide"], ["Queued", "tight wide"]];
      const rows = jobs.map(({ position, priority, memory_mib: memory, reason, job }) => [count(position), el("span", {}, link(`/jobs/${job.id}`, job.label), job.search ? el("span", { class: "quiet" }, " of ", link(`/searches/${job.search}`, short(job.search), { "data-key": `search of ${job.id}` })) : null),
        reason.replace(/^Waits at position \d+ of the queue\. /, ""), mebibytes(memory), priority, since(job.create_time)]);
      return [el("p", { class: "quiet" }, `${count(length)} jobs wait.`), table("Waiting jobs", columns, rows), el("nav", { class: "row", "aria-label": "Pages of the queue" }, offset > 0 ? link(`/queue?offset=${Math.max(0, offset - PAGE)}`, "Nearer to the front") : null, offset + jobs.length < length ? link(`/queue?offset=${offset + PAGE}`, "Farther back", { class: "push" }) : null)];
    },
    signal,
  });
}
