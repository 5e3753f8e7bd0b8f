// Worker daemons and what they have.

import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, mebibytes, short, wireState } from "/assets/lib/format.js";
import { badge, code, empty, section, since, table } from "/assets/lib/widgets.js";

export const title = "Workers";

/// What searches may ask for.
function labels(worker) {
  const pairs = Object.entries(worker.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? null : el("div", { class: "quiet" }, pairs.join(", "));
}

/// Why it gets no jobs for a while, and until when.
function suspicion(worker) {
  if (!worker.suspect_until) return null;
  return el("div", { class: "quiet" }, "until ", el("time", { datetime: worker.suspect_until }, clock(worker.suspect_until)), `: ${worker.suspect_reason ?? ""}; `, code(`cakes worker uncordon ${worker.id}`), " lets it take jobs now.");
}

export function show({ host, signal }) {
  const list = el("section", { class: "plate", "aria-label": "Workers" });
  host.append(el("div", {}, el("h1", {}, "Workers"), el("p", { class: "lead" }, "Daemons that were heard of in the last day.")), list);
  section(list, {
    urls: () => [address("/workers")],
    draw: ({ workers = [] }) => {
      if (workers.length === 0) return empty("No worker has registered.", el("span", {}, "Start one on every machine that should train: ", code("cakes-worker --server http://127.0.0.1:7550"), "."));
      const columns = [["Worker"], ["State", workers.some((worker) => worker.suspect_until) ? "long" : null], ["Devices", "long"], ["Jobs"], ["Heard of", "tight"], ["Started", "tight wide"], ["Version", "wide"]];
      const rows = workers.map((worker) => [el("div", {}, worker.id, labels(worker)), el("div", {}, badge(wireState(worker.state, "WORKER_STATE_")), suspicion(worker)),
        (worker.devices ?? []).map((device) => el("div", {}, device.name, el("span", { class: "quiet" }, ` ${device.model}, ${mebibytes(Number(device.memory_mib))}`))),
        (worker.job_ids ?? []).length === 0 ? "–" : worker.job_ids.map((id) => el("div", {}, link(`/jobs/${id}`, short(id)))),
        since(worker.last_seen_time), since(worker.register_time), worker.version ?? "–"]);
      return [table("Workers by name", columns, rows), el("p", {}, link("/devices", "What their devices ran"))];
    },
    // When it was last heard of changes with every report.
    signal,
  });
}
