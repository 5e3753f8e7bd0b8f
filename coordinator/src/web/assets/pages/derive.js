// More architectures from the scores of a search's supernet: seen first, then retrained.

import { actionButton, during, refusal } from "/assets/lib/actions.js";
import { address, post } from "/assets/lib/api.js";
import { spell, total } from "/assets/lib/architecture.js";
import { el, link, swap } from "/assets/lib/dom.js";
import { macs, milliseconds, share, si } from "/assets/lib/format.js";
import { session } from "/assets/lib/session.js";
import { code, empty, section, table } from "/assets/lib/widgets.js";

const MEASURES = [["", "as the search does"], ["COST_MEASURE_MAC", "multiply-accumulates"], ["COST_MEASURE_PARAM", "parameters"], ["COST_MEASURE_LATENCY", "measured time"]];
const BUDGETS_MAX = 64;

export function showDerive({ host, id, signal, concerns }) {
  const plate = el("div", { class: "page" });
  host.append(plate);
  if (!session.may("preview_derivation")) {
    plate.append(empty("This needs a token of a submitter or an operator.", link("/sign-in", "Sign in"), el("span", {}, "From a terminal: ", code("cakes search derive SEARCH --budget 0.5 --retrain"))));
    return;
  }
  let isReady = false;
  section(plate, {
    urls: () => [address(`/searches/${id}`)],
    draw: ({ supernet, search }) => {
      isReady = supernet?.state === "succeeded";
      return isReady ? form(search) : empty("There are no scores yet.", "Architectures are derived from what the supernet found, when it has succeeded.");
    },
    // A form that is being filled in is not drawn anew.
    concerns: (change) => !isReady && concerns(change), signal,
  });
}

/// "0.3, 0.5" as numbers.
///
/// Throws an Error that says what is wrong.
function numbers(text, name, isKnown, hint) {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  const wrong = parts.find((part) => !isKnown(Number(part)));
  if (wrong !== undefined) throw new Error(`${name}: "${wrong}" is none; ${hint}`);
  return parts.map(Number);
}

function form(search) {
  const budgets = el("input", { name: "budgets", value: "0.3, 0.5", inputmode: "decimal", autocomplete: "off", "aria-describedby": "budget-hint" });
  const measure = el("select", { name: "measure" }, MEASURES.map(([value, text]) => el("option", { value }, text)));
  const rule = el("input", { name: "rule", type: "checkbox" });
  const seeds = el("input", { name: "seeds", value: "0", inputmode: "numeric", autocomplete: "off" });
  const wrong = el("p", { class: "wrong", role: "alert" });
  const found = el("div", { class: "page" });
  const wish = () => {
    const shares = numbers(budgets.value, "Budgets", (value) => value > 0 && value <= 1, "write fractions above 0 up to 1, as in 0.3, 0.5");
    if (shares.length > BUDGETS_MAX) throw new Error(`Budgets: at most ${BUDGETS_MAX} at a time`);
    if (shares.length === 0 && !rule.checked) throw new Error("Budgets: give at least one, or tick the paper's rule");
    return { budgets: shares, unconstrained: rule.checked, ...(measure.value ? { measure: measure.value } : {}) };
  };
  const key = `preview ${search.id}`;
  const preview = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    await during(key, async () => {
      try {
        const asked = wish();
        const chosen = numbers(seeds.value, "Seeds", (value) => Number.isSafeInteger(value) && value >= 0, "write whole numbers, as in 0, 1");
        if (chosen.length === 0) throw new Error("Seeds: give at least one, as in 0");
        const answer = await post(address(`/searches/${search.id}/derivations`), asked);
        swap(found, results(search, answer, asked, chosen));
        found.querySelector("h2")?.focus();
      } catch (error) {
        wrong.textContent = error.status === undefined ? `${error.message}.` : refusal(error);
      }
    });
  };
  // What is seen and what would be queued must be the same.
  const change = () => swap(found);
  const fields = el("form", { class: "form", onsubmit: preview, oninput: change },
    el("label", { class: "field" }, el("span", {}, "Budgets"), budgets, el("span", { id: "budget-hint", class: "hint" }, "fractions of what the all-3x3x3 network costs")),
    el("label", { class: "field" }, el("span", {}, "Of its"), measure),
    el("label", { class: "check" }, rule, "also by the paper's rule, without a budget"),
    el("label", { class: "field" }, el("span", {}, "Seeds of the retrainings"), seeds), wrong,
    el("div", { class: "row" }, el("button", { type: "submit", "data-key": key }, "Show what would be derived")));
  return [el("section", { class: "plate", "aria-label": "What to derive" }, el("h2", {}, "Derive more architectures"), fields), found];
}

function results(search, { architectures = [], derivations = [] }, asked, seeds) {
  const rows = architectures.map((known, place) => {
    const how = derivations[place];
    const { cost } = known;
    const proof = how.score === undefined ? "–" : how.is_optimal ? "the best one" : `within ${share(1 - how.score / how.score_bound)} of the best`;
    return [how.origin, `${macs(cost.mac_count)} (${share(cost.mac_fraction ?? 0)})`, `${si(cost.param_count)} (${share(how.param_fraction ?? 0)})`,
      how.predicted_latency_ms ? milliseconds(how.predicted_latency_ms) : "–", proof, spell(total(known.layers))];
  });
  const count = new Set(architectures.map((known) => known.digest)).size * seeds.length;
  const jobs = count === 1 ? "1 retraining" : `${count} retrainings`;
  const done = el("div", {});
  // The same for every try, so that a second one queues nothing twice.
  const request = { derive: asked, seeds, request_id: crypto.randomUUID() };
  const queue = actionButton({ key: `queue ${search.id}`, label: `Queue ${jobs}`, isPrimary: true,
    question: { title: `Queue ${jobs}?`, text: ["Each trains one architecture with one seed, as the search trains. They are jobs of their own: the search's front does not count them."], sure: `Queue ${jobs}` },
    run: async () => {
      const { jobs: queued } = await post(address(`/searches/${search.id}/retrainings`), request);
      swap(done, el("p", {}, "Queued:"), el("ul", {}, queued.map((job) => el("li", {}, link(`/jobs/${job.id}`, job.label)))));
      return queued.length === 1 ? "1 retraining is queued." : `${queued.length} retrainings are queued.`;
    } });
  return el("section", { class: "plate" }, el("h2", { tabindex: -1 }, "What would be derived"),
    table("Architectures that would be derived", [["Architecture"], ["MACs", "num"], ["Parameters", "num"], ["Expected time", "num wide"], ["Among those within the budget", "wide"], ["Channels in all", "long wide"]], rows),
    session.mayIn("queue_retrainings", search.project) ? el("div", { class: "row" }, queue) : null, done);
}
