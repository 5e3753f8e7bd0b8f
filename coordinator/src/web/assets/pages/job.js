// One job: where it is and why, its attempts, curves, events and log.

import { curves } from "/assets/charts/curves.js";
import { jobActions } from "/assets/lib/actions.js";
import { address, get } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { clock, count, deviceTimeOf, duration, macs, mebibytes, metric, milliseconds, number, quality, short, si } from "/assets/lib/format.js";
import { live } from "/assets/lib/live.js";
import { badge, bar, code, empty, facts, labels, notes, section, since, table, wishes } from "/assets/lib/widgets.js";
import { eventTable } from "/assets/pages/events.js";
import { done } from "/assets/pages/jobs.js";

export const title = "Job";

const LINES_MAX = 3000;

export function show({ host, id, signal, title: name }) {
  const head = el("div", { class: "page" });
  const charts = el("section", { class: "plate", "aria-label": "Learning curves" });
  const events = el("section", { class: "plate", "aria-label": "Events" });
  const log = el("section", { class: "plate", "aria-label": "Log" });
  const concerns = (change) => change.jobs.some((changed) => changed.startsWith(id) || id.startsWith(changed));
  host.append(head, charts, log, events);
  section(head, { urls: () => [address(`/jobs/${id}`)], draw: (found) => {
    name(found.job.label);
    return draw(found);
  }, concerns, signal, spoken: "The job has changed." });
  section(charts, { urls: () => [address(`/jobs/${id}/metrics`)], draw: (found) => [el("h2", {}, "Learning curves"), drawCurves(found.curves, id)], concerns, signal });
  section(events, { urls: () => [address("/events", { job: id, limit: 50 })], draw: (found) => [el("h2", {}, "Events"), eventTable(found.events)], concerns, signal });
  follow(log, id, concerns, signal);
}

function draw({ job, placement, explanation, queue_position: place, memory_mib: memory, device, attempts, checkpoints, notes: given }) {
  const { progress, result } = job;
  const known = [["Kind", job.kind], job.architecture ? ["Architecture", link(`/architectures/${job.architecture}${job.search ? `?search=${job.search}` : ""}`, short(job.architecture))] : null,
    job.search ? ["Search", link(`/searches/${job.search}`, short(job.search))] : null, place ? ["Position in the queue", count(place)] : null,
    job.slots.length > 1 ? ["Workers", job.slots.join(", ")] : job.worker ? ["Worker", device ? `${job.worker}, ${device}` : job.worker] : null, ["Memory it needs", mebibytes(memory)], ...wishes(placement), placement.cost_limit_device_s === null ? null : ["Taken of its limit", deviceTimeOf(placement.spent_device_s, placement.cost_limit_device_s)], ["Queued", since(job.create_time)], ["Started", since(job.start_time)], job.end_time ? ["Ended", since(job.end_time)] : null,
    progress ? ["Step", `${count(progress.step)} of ${count(progress.step_count)}`] : null, progress && !result ? ["Phase", progress.phase] : null, progress?.step && !result ? ["Loss", number(progress.loss, 4)] : null,
    progress?.step && !result ? ["Speed", `${number(progress.samples_per_s)} samples/s`] : null, progress && !result ? ["Time left", duration(progress.remaining_s)] : null, progress ? ["Last checkpoint", progress.checkpoint_step ? `step ${count(progress.checkpoint_step)}` : "none"] : null];
  const ended = result ? [[metric(result.quality_metric), quality(result.quality)], ["Per class", result.per_class.map((value) => quality(value)).join(", ")], ["Parameters", si(result.param_count)], ["Multiply-accumulates", macs(result.mac_count)], ["Latency", milliseconds(result.latency_ms)], ["Peak memory", mebibytes(result.peak_memory_mib)], ["Training took", duration(result.train_duration_s)], ["Device", result.device]] : [];
  const rows = [...attempts].reverse().map((attempt) => [attempt.epoch, attempt.worker, attempt.outcome, attempt.resume_step ? `step ${count(attempt.resume_step)}` : "the start", count(attempt.last_step), clock(attempt.grant_time), attempt.end_time ? duration((new Date(attempt.end_time) - new Date(attempt.grant_time)) / 1000) : "goes on"]);
  return [el("div", {}, el("h1", {}, job.label), el("div", { class: "row centre" }, badge(job.state), bar(done(job), "progress of the job"), el("span", { class: "quiet mono" }, job.id)), labels(job.labels, "/jobs", job.id), el("p", {}, explanation), jobActions(job, placement)),
    el("section", { class: "plate", "aria-label": "Facts" }, facts(known)),
    notes(given),
    result ? el("section", { class: "plate" }, el("h2", {}, "Result"), facts(ended)) : null,
    el("section", { class: "plate" }, el("h2", {}, "Attempts"), rows.length === 0 ? empty("It has not been given to a worker yet.") : table("Attempts, newest first", [["Attempt"], ["Worker"], ["Outcome", "long"], ["From", "tight wide"], ["Last step", "num"], ["Granted", "tight wide"], ["Took", "tight"]], rows)),
    kept(job, checkpoints)];
}

/// Checkpoints that are kept, and why; as `cakes job checkpoints` says it.
function kept(job, checkpoints) {
  if (!checkpoints) return null;
  const here = checkpoints.filter((known) => !known.condemn_time);
  const gone = checkpoints.length - here.length;
  const rows = here.map((known) => [count(known.step ?? 0), (known.kept_because ?? []).join(", ") || "not for long", si(known.bytes ?? 0, "B"), since(known.commit_time), known.epoch ?? "–"]);
  const more = gone ? [`${count(gone)} ${gone === 1 ? "was" : "were"} given up; `, code(`cakes job checkpoints ${short(job.id)}`), " says why."] : null;
  return el("section", { class: "plate", "aria-label": "Checkpoints" }, el("h2", {}, "Checkpoints that are kept"),
    rows.length === 0 ? empty("None is kept.") : table("Checkpoints, the farthest first", [["Step"], ["Kept because"], ["Size", "num"], ["Saved", "tight"], ["Attempt", "num wide"]], rows),
    more ? el("p", { class: "quiet" }, more) : null);
}

function drawCurves(found, id) {
  const shown = found.filter((curve) => curve.steps.length > 1);
  if (shown.length === 0) return empty("Nothing is reported yet.", "Curves appear with the first reports of the trainer.");
  const first = (key) => (key === "train/loss" ? 0 : key.startsWith("validation/") ? 1 : 2);
  shown.sort((left, right) => first(left.key) - first(right.key) || left.key.localeCompare(right.key));
  return [el("div", { class: "split" }, shown.slice(0, 8).map((curve) => curves({ title: curve.key, runs: [{ name: curve.key, ...curve }], height: 0.5, key: curve.key }))),
    el("p", {}, link(`/curves?jobs=${id}`, "Compare with other runs"))];
}

function follow(host, id, concerns, signal) {
  const pre = el("pre", { class: "log mono", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Lines of the trainer and its worker" });
  const box = el("input", { type: "checkbox", checked: true });
  host.append(el("div", { class: "row centre" }, el("h2", {}, "Log"), el("label", { class: "check push quiet" }, box, "follow")), pre);
  let next = null;
  let busy = false;
  const more = async () => {
    if (busy) return;
    busy = true;
    try {
      for (;;) {
        const { data } = await get(address(`/jobs/${id}/logs`, { after: next }), signal);
        if (next === null && data.lines.length === 0) pre.textContent = "";
        pre.append(...data.lines.flatMap((line) => [el("span", {}, el("time", { datetime: line.time, title: clock(line.time) }, clock(line.time).slice(11)), ` ${line.text}\n`)]));
        while (pre.childElementCount > LINES_MAX) pre.firstElementChild.remove();
        if (data.lines.length > 0 && box.checked) pre.scrollTop = pre.scrollHeight;
        const isWhole = next === null || data.lines.length === 0;
        next = data.next;
        if (isWhole) break;
      }
    } catch (error) {
      if (!signal.aborted && error.status === 404) pre.textContent = error.message;
    } finally {
      busy = false;
    }
  };
  live.listen((change) => (change.more || concerns(change)) && more(), signal);
  more();
}
