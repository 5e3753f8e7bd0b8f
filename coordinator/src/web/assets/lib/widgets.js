// Parts that pages share.

import { ApiError, get } from "/assets/lib/api.js";
import { announce, el, link, swap } from "/assets/lib/dom.js";
import { ago, clock, share } from "/assets/lib/format.js";
import { live } from "/assets/lib/live.js";

export function badge(state) {
  return el("span", { class: `badge state-${state}` }, String(state).replaceAll("_", " "));
}

/// A time as its distance from now, which goes on.
export function since(time) {
  if (!time) return "–";
  return el("time", { datetime: time, title: clock(time), "data-ago": time }, ago(time));
}

setInterval(() => {
  for (const node of document.querySelectorAll("time[data-ago]")) node.textContent = ago(node.dataset.ago);
}, 5000);

export function bar(part, label) {
  const value = Math.min(1, Math.max(0, part || 0));
  const track = el("span", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * value), "aria-label": label }, el("span", { class: "bar-fill", style: { width: `${100 * value}%` } }));
  return el("span", { class: "bar-with-text" }, track, el("span", { class: "bar-text" }, share(value)));
}

/// A table; columns are [title, class], rows lists of cells.
export function table(caption, columns, rows, key) {
  const head = el("tr", {}, columns.map(([title, kind]) => el("th", { scope: "col", class: kind }, title)));
  const body = rows.map((cells) => el("tr", {}, cells.map((cell, place) => el(place === 0 ? "th" : "td", { scope: place === 0 ? "row" : undefined, class: columns[place][1] }, cell))));
  return el("div", { class: "scroll-x", "data-scroll": key ?? caption, tabindex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "hidden-text" }, caption), el("thead", {}, head), el("tbody", {}, body)));
}

export function empty(title, ...hints) {
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, title), hints.map((hint) => el("p", {}, hint)));
}

export const code = (text) => el("code", {}, text);

/// A labelled choice; `options` are [value, text].
export function choice(label, options, value, change) {
  const select = el("select", { "data-key": `choice ${label}`, onchange: (event) => change(event.target.value) },
    options.map(([known, text]) => el("option", { value: known, selected: known === value }, text)));
  return el("label", { class: "field" }, el("span", {}, label), select);
}

export function search(label, value, change, longest = 100) {
  let timer;
  const input = el("input", { type: "search", value, "data-key": `text ${label}`, maxlength: longest, autocomplete: "off", spellcheck: "false",
    oninput: (event) => {
      clearTimeout(timer);
      const text = event.target.value;
      timer = setTimeout(() => change(text), 250);
    } });
  return el("label", { class: "field" }, el("span", {}, label), input);
}

const WORD = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?";
const LABEL = new RegExp(`^${WORD}=(?:${WORD})?$`);

/// A field for KEY=VALUE, several with blanks between them; what is none yet changes nothing.
export function labelFilter(value, change) {
  const field = search("Labels, as in owner=ada", value.replaceAll(",", " "), (text) => {
    const given = text.split(/[\s,]+/).filter(Boolean);
    const isWhole = given.every((label) => LABEL.test(label));
    field.querySelector("input").setAttribute("aria-invalid", String(!isWhole));
    if (isWhole) change(given.join(","));
  }, 400);
  return field;
}

/// Labels of something; each leads to the list of all that have it.
export function labels(of, list, id) {
  const given = Object.entries(of ?? {}).sort();
  if (given.length === 0) return null;
  return el("span", { class: "labels" }, given.map(([key, value]) => {
    const text = `${key}=${value}`;
    return link(`${list}?label=${encodeURIComponent(text)}`, text, { class: "label", "data-key": `label ${text} of ${id}`, title: `All with ${text}` });
  }));
}

/// Which workers something is for, and until when it is wanted, as facts; none for what it does not ask.
export function wishes({ worker_labels: asked, deadline }) {
  const given = Object.entries(asked).sort().map(([key, value]) => `${key}=${value}`);
  return [given.length > 0 ? ["Workers labelled", given.join(", ")] : null,
    deadline ? ["Wanted by", el("time", { datetime: deadline }, clock(deadline))] : null];
}

/// What people remarked, oldest first; nothing for no notes.
export function notes(given) {
  if (!given?.length) return null;
  return el("section", { class: "plate", "aria-label": "Notes" }, el("h2", {}, "Notes"),
    el("ul", { class: "notes", tabindex: 0, "data-scroll": "notes", "aria-label": "Notes, oldest first" }, given.map((note) => el("li", {}, el("p", { class: "quiet" }, note.author, ", ", since(note.create_time)), el("p", { class: "note" }, note.text)))));
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

export function failure(error) {
  if (error instanceof ApiError && error.status === 404) {
    return empty("There is no such thing here.", error.message, link("/", "Go to the searches"));
  }
  return el("div", { class: "empty error" }, el("p", { class: "empty-title" }, "This cannot be shown now."), el("p", {}, error.message),
    el("p", {}, "It is tried again by itself."));
}

/// A part of a page that shows answers and renews itself when they change.
///
/// `urls()` are asked, `draw(...answers)` gives nodes. `concerns(change)` says whether a
/// change is worth asking again; without it every one is.
export function section(host, { urls, draw, concerns, signal, spoken }) {
  let shown = null;
  let running = false;
  let again = false;
  let first = true;
  const show = async (force) => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      const asked = urls();
      const answers = await Promise.all(asked.map((url) => get(url, signal)));
      const text = asked.concat(answers.map((answer) => answer.text)).join("\n");
      if (force || text !== shown) {
        swap(host, draw(...answers.map((answer) => answer.data)));
        host.removeAttribute("aria-busy");
        if (!first && spoken) announce(spoken);
        first = false;
      }
      shown = text;
    } catch (error) {
      if (signal.aborted) return;
      // What is known stays; only the first answer has nothing to stay.
      if (shown === null || (error instanceof ApiError && error.status === 404)) swap(host, failure(error));
      if (!(error instanceof ApiError)) console.error(error);
    } finally {
      running = false;
      if (again) {
        again = false;
        show(false);
      }
    }
  };
  host.setAttribute("aria-busy", "true");
  live.listen((change) => (change.more || !concerns || concerns(change)) && show(false), signal);
  show(true);
  return () => show(true);
}
