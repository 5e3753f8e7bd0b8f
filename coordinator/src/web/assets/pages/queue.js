// Jobs that wait, in the order in which they are served.

import { address, get } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { count, mebibytes, short } from "/assets/lib/format.js";
import { OffsetSource } from "/assets/lib/sources.js";
import { virtualList } from "/assets/lib/virtual.js";
import { code, empty, since } from "/assets/lib/widgets.js";

export const title = "Queue";

const PAGE = 100;

export function show({ host, signal }) {
  const list = el("section", { class: "plate", "aria-label": "Queue" });
  host.append(el("div", {}, el("h1", {}, "Queue"), el("p", { class: "lead" }, "In this order, within what fits a free device. A job that is tried again keeps its place.")), list);
  const source = new OffsetSource(async (offset) => {
    const { data } = await get(address("/queue", { offset, limit: PAGE }), signal);
    return { rows: data.jobs, total: data.length, answer: data };
  }, PAGE);
  const cells = ({ position, priority, project, memory_mib: memory, reason, job }) => [
    el("span", {}, link(`/jobs/${job.id}`, job.label), job.search ? el("span", { class: "quiet" }, " of ", link(`/searches/${job.search}`, short(job.search), { "data-key": `search of ${job.id}` })) : null),
    count(position), reason.replace(/^Waits at position \d+ of the queue\. /, ""), mebibytes(memory), project, priority, since(job.create_time)];
  virtualList(list, {
    caption: "Waiting jobs", source, cells, signal,
    columns: [["Job", null, "minmax(8rem, 2fr)", "minmax(0, 1fr)"], ["Position", "num", "4.5rem", "3.6rem"], ["Why it waits", null, "minmax(9rem, 4fr)", "minmax(0, 1.3fr)"], ["Memory", "num wide", "6rem"], ["Project", "wide", "7rem"], ["Priority", "num wide", "4.5rem"], ["Queued", "wide", "7.5rem"]],
    before: (answer) => (answer?.length ? el("p", { class: "quiet" }, `${count(answer.length)} jobs wait.`) : null),
    none: () => empty("Nothing waits.", el("span", {}, "Every job is given to a worker or has ended. Submit a search with ", code("cakes search submit FILE"), ".")),
  });
}
