// Where a token is given.

import { report } from "/assets/lib/actions.js";
import { el } from "/assets/lib/dom.js";
import { session } from "/assets/lib/session.js";
import { code } from "/assets/lib/widgets.js";

export const title = "Sign in";

export function show({ host }) {
  const wrong = el("p", { id: "sign-in-wrong", class: "wrong", role: "alert" });
  const input = el("input", { id: "token", name: "token", type: "password", required: true, autocomplete: "current-password", spellcheck: "false", autocapitalize: "off", "aria-describedby": "sign-in-hint sign-in-wrong", "data-key": "token" });
  const button = el("button", { type: "submit", class: "primary", "data-key": "give token" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    button.disabled = true;
    try {
      await session.signIn(input.value.trim());
      report(`Signed in as ${session.known.name}, whose role is ${session.known.role}.`);
      document.getElementById("main").focus({ preventScroll: true });
    } catch (error) {
      wrong.textContent = sentence(error.message);
      input.setAttribute("aria-invalid", "true");
      input.focus();
      input.select();
    } finally {
      button.disabled = false;
    }
  };
  host.append(el("div", {}, el("h1", {}, "Sign in"), el("p", { class: "lead" }, session.known.requires_token ? "This page is shown to holders of a token only." : "Everybody who reaches this page may look; acting needs a token.")),
    el("section", { class: "plate", "aria-label": "Sign in" }, el("form", { class: "form", onsubmit: submit, autocomplete: "on" },
      el("label", { class: "field", for: "token" }, el("span", {}, "Token"), input), wrong,
      el("p", { id: "sign-in-hint", class: "hint" }, "It begins with cakes_. Whoever runs the coordinator makes one with ", code("cakes-coordinator token issue NAME --role operator"), "."),
      el("div", { class: "row" }, button))));
}

/// What the coordinator says, as a sentence.
function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
