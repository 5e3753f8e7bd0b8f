// Learning curves of several runs in one picture.

import { curves } from "/assets/charts/curves.js";
import { address } from "/assets/lib/api.js";
import { el, link } from "/assets/lib/dom.js";
import { short } from "/assets/lib/format.js";
import { badge, choice, empty, search, section } from "/assets/lib/widgets.js";

export const title = "Curves";

const RUNS_MAX = 16;

export function show({ host, query, signal }) {
  const chosen = new Set((query.jobs ?? "").split(",").filter(Boolean).slice(0, RUNS_MAX));
  const state = { key: query.key ?? "train/loss", log: query.log === "1", text: "" };
  const names = new Map();
  const picture = el("section", { class: "plate", "aria-label": "Curves" });
  const runs = el("section", { class: "plate", "aria-label": "Runs" });
  const keep = () => {
    history.replaceState(null, "", `/curves?${new URLSearchParams({ jobs: [...chosen].join(","), key: state.key, ...(state.log ? { log: "1" } : {}) })}`);
    refresh();
  };
  const list = el("div", { class: "run-list" });
  host.append(el("div", {}, el("h1", {}, "Learning curves"), el("p", { class: "lead" }, "Choose runs and what to see of them.")), picture, runs);
  runs.append(el("h2", {}, "Runs"), search("Name or id", "", (value) => {
    state.text = value;
    relist();
  }), list);
  const concerns = (change) => change.jobs.some((job) => chosen.has(job));
  const refresh = section(picture, {
    urls: () => [...chosen].flatMap((id) => [address(`/jobs/${id}`), address(`/jobs/${id}/metrics`)]),
    draw: (...answers) => {
      if (answers.length === 0) return empty("No run is chosen.", "Tick some below; those that have reported something have curves.");
      const found = [];
      for (let place = 0; place < answers.length; place += 2) found.push({ job: answers[place].job, curves: answers[place + 1].curves });
      const keys = [...new Set(found.flatMap((run) => run.curves.map((curve) => curve.key)))].sort();
      if (keys.length === 0) return empty("These runs have reported nothing yet.");
      const key = keys.includes(state.key) ? state.key : keys[0];
      const label = (job) => (found.filter((run) => run.job.label === job.label).length > 1 ? `${job.label} (${short(job.id)})` : job.label);
      const shown = found.map((run) => ({ name: label(run.job), ...(run.curves.find((curve) => curve.key === key) ?? { steps: [], values: [] }) })).filter((run) => run.steps.length > 0);
      const log = el("input", { type: "checkbox", checked: state.log, "data-key": "log", onchange: (event) => {
        state.log = event.target.checked;
        keep();
      } });
      return [el("div", { class: "row" }, choice("Metric", keys.map((known) => [known, known]), key, (value) => {
        state.key = value;
        keep();
      }), el("label", { class: "check quiet" }, log, "logarithmic")), curves({ title: key, runs: shown, logarithmic: state.log, key: "curves" })];
    },
    concerns, signal,
  });
  const relist = section(list, {
    urls: () => [address("/jobs", { limit: 100, text: state.text })],
    draw: ({ jobs }) => {
      if (jobs.length === 0) return empty("There are no such jobs.", link("/", "Go to the searches"));
      return jobs.map((job) => {
        names.set(job.id, job.label);
        const box = el("input", { type: "checkbox", checked: chosen.has(job.id), "data-key": `run ${job.id}`, onchange: (event) => {
          if (event.target.checked && chosen.size < RUNS_MAX) chosen.add(job.id);
          else chosen.delete(job.id);
          event.target.checked = chosen.has(job.id);
          keep();
        } });
        return el("label", { class: "check" }, box, el("span", {}, job.label, " ", el("span", { class: "quiet mono" }, short(job.id))), badge(job.state));
      });
    },
    concerns: (change) => change.jobs.some((job) => !names.has(job)), signal,
  });
}
