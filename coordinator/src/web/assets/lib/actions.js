// Buttons that change something: a question before, disabled meanwhile, an answer behind.

import { address, post } from "/assets/lib/api.js";
import { el, swap } from "/assets/lib/dom.js";
import { deviceTimeOf } from "/assets/lib/format.js";
import { session } from "/assets/lib/session.js";

/// What is under way; a part of a page that is drawn anew meanwhile knows it.
const running = new Set();

/// Shows, and says to who does not see, what came of an action.
export function report(text, isRefused = false) {
  const host = document.getElementById("result");
  swap(host, el("div", { class: isRefused ? "result refused" : "result" }, el("span", {}, text),
    el("button", { type: "button", class: "quiet", "data-key": "close result", onclick: () => clearResult() }, "Close")));
}

export function clearResult() {
  swap(document.getElementById("result"));
}

const byKey = (key) => [...document.querySelectorAll("button[data-key]")].find((button) => button.dataset.key === key);

/// Asks in a dialog; what was filled in, or null. `fields` is a node of the form.
export function ask({ title, text, fields, sure, isDangerous }) {
  return new Promise((resolve) => {
    const heading = `dialog-${Math.random().toString(36).slice(2)}`;
    const keep = el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Go back");
    const form = el("form", { method: "dialog" }, el("h2", { id: heading }, title), text.map((part) => el("p", {}, part)), fields ?? null,
      el("div", { class: "row" }, keep, el("button", { type: "submit", value: "sure", class: isDangerous ? "danger sure" : "primary" }, sure)));
    const dialog = el("dialog", { "aria-labelledby": heading, onclose: () => {
      const answer = dialog.returnValue === "sure" ? new FormData(form) : null;
      dialog.remove();
      resolve(answer);
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/// A button; `run(answers)` does it and gives the sentence to show. `question` is asked
/// before, if there is one.
export function actionButton({ key, label, question, run, isDangerous, isPrimary }) {
  const kind = isDangerous ? "danger" : isPrimary ? "primary" : null;
  return el("button", { type: "button", class: kind, "data-key": key, disabled: running.has(key), onclick: async () => {
    const answers = question ? await ask({ ...question, isDangerous }) : new FormData();
    byKey(key)?.focus({ preventScroll: true });
    if (!answers || running.has(key)) return;
    clearResult();
    await during(key, async () => {
      try {
        report(await run(answers));
      } catch (error) {
        report(refusal(error), true);
      }
    });
  } }, label);
}

/// Runs with the button of this key disabled.
export async function during(key, work) {
  running.add(key);
  const mark = (isBusy) => {
    const button = byKey(key);
    if (!button) return;
    const hadFocus = document.activeElement === button;
    button.disabled = isBusy;
    if (isBusy) button.setAttribute("aria-busy", "true");
    else button.removeAttribute("aria-busy");
    // A disabled button loses the focus, which must not begin again at the top.
    if (isBusy && hadFocus) document.getElementById("main").focus({ preventScroll: true });
  };
  mark(true);
  try {
    await work();
  } finally {
    running.delete(key);
    mark(false);
  }
}

/// An error with what to do about it.
export function refusal(error) {
  const remedies = { 0: "It is shown above when it is there again; then try once more.", 401: "Sign in again.", 429: "Try again in a minute.", 503: "Try again in a moment." };
  return [`Not done: ${error.message}.`, remedies[error.status]].filter(Boolean).join(" ");
}

const STATES = {
  pause: ["queued", "leased", "running"],
  resume: ["paused", "pausing"],
  cancel: ["queued", "leased", "running", "pausing", "paused"],
  retry: ["failed", "cancelled"],
};

const AFTERWARDS = {
  cancelled: "The job is cancelled.",
  cancelling: "The job is being cancelled: its worker stops it.",
  paused: "The job is paused.",
  pausing: "The job is being paused: its worker saves a checkpoint first.",
  queued: "The job is in the queue again.",
  running: "The job goes on.",
  leased: "The job goes on.",
};

const reasonField = () => el("label", { class: "field" }, el("span", {}, "Reason, for the others (may stay empty)"), el("input", { name: "reason", maxlength: 300, autocomplete: "off" }));

const limitField = () => el("label", { class: "field" }, el("span", {}, "New limit in device-hours, what it has taken included (may stay empty: as it was)"), el("input", { name: "limit", inputmode: "decimal", maxlength: 20, autocomplete: "off" }));

/// The limit that was typed, for the body of a request; nothing for an empty field.
///
/// Throws an Error that says what is wrong.
function typedLimit(answers) {
  const text = (answers.get("limit") ?? "").trim();
  if (text === "") return {};
  const hours = Number(text);
  if (!Number.isFinite(hours) || hours <= 0) throw new Error(`the limit "${text}" is none; write device-hours above 0, as in 24 or 0.5`);
  return { cost_limit_device_hours: hours };
}

/// What is asked before a job with a limit goes on; a job without one goes on at once.
function resumption(job, { cost_limit_device_s: limit, spent_device_s: spent }) {
  if (limit === null) return undefined;
  const hint = spent >= limit ? "It goes on with a higher limit only." : "Its limit stays as it is, unless another one is given.";
  return { title: `Resume "${job.label}"?`, text: [`It has taken ${deviceTimeOf(spent, limit)}. ${hint}`], fields: limitField(), sure: "Resume" };
}

/// Whether whoever is signed in may change it: an operator, at least of its project, or whoever
/// submitted it.
const isOwn = (thing) => {
  const role = session.roleIn(thing.project);
  return role === "operator" || (role === "submitter" && thing.owner !== null && thing.owner === session.known.name);
};

/// Buttons for what may be done with a job in its state.
export function jobActions(job, placement) {
  const act = async (verb, body) => {
    const answer = await post(address(`/jobs/${job.id}/${verb}`), body);
    return AFTERWARDS[answer.job.state] ?? `The job is ${answer.job.state}.`;
  };
  const can = (verb) => session.may(`${verb}_job`) && isOwn(job) && STATES[verb].includes(job.state);
  const key = (verb) => `${verb} job ${job.id}`;
  const buttons = [
    can("pause") ? actionButton({ key: key("pause"), label: "Pause", run: () => act("pause") }) : null,
    can("resume") ? actionButton({ key: key("resume"), label: "Resume", question: resumption(job, placement), run: (answers) => act("resume", typedLimit(answers)) }) : null,
    can("retry") ? actionButton({ key: key("retry"), label: "Retry", run: () => act("retry") }) : null,
    can("cancel") ? actionButton({ key: key("cancel"), label: "Cancel the job", isDangerous: true, run: (answers) => act("cancel", { reason: answers.get("reason") }),
      question: { title: `Cancel "${job.label}"?`, text: ["What it has trained since its last checkpoint is lost, and no result is taken any more. It can be retried later."], fields: reasonField(), sure: "Cancel the job" } }) : null,
  ].filter(Boolean);
  return buttons.length === 0 ? null : el("div", { class: "actions", role: "group", "aria-label": "Actions on this job" }, buttons);
}

/// Buttons for what may be done with a search in its state.
export function searchActions(search) {
  if (!session.may("cancel_search") || !isOwn(search) || !["searching", "retraining"].includes(search.state)) return null;
  const run = async (answers) => {
    const { search: { live_count: live } } = await post(address(`/searches/${search.id}/cancel`), { reason: answers.get("reason") });
    return live === 0 ? "The search is cancelled." : `The search is cancelled; ${live} of its jobs are being stopped.`;
  };
  const button = actionButton({ key: `cancel search ${search.id}`, label: "Cancel the search", isDangerous: true, run,
    question: { title: `Cancel "${search.name}"?`, text: ["All its jobs that have not ended are cancelled. Results that are there stay. A cancelled search does not go on: it is submitted again."], fields: reasonField(), sure: "Cancel the search" } });
  return el("div", { class: "actions", role: "group", "aria-label": "Actions on this search" }, button);
}
