// Which page stands behind which address.

import { clearResult } from "/assets/lib/actions.js";
import { onRefused } from "/assets/lib/api.js";
import { announce, el, swap } from "/assets/lib/dom.js";
import { live } from "/assets/lib/live.js";
import { session } from "/assets/lib/session.js";
import { empty } from "/assets/lib/widgets.js";
import * as architecture from "/assets/pages/architecture.js";
import * as curves from "/assets/pages/curves.js";
import * as devices from "/assets/pages/devices.js";
import * as diff from "/assets/pages/diff.js";
import * as events from "/assets/pages/events.js";
import * as job from "/assets/pages/job.js";
import * as jobs from "/assets/pages/jobs.js";
import * as queue from "/assets/pages/queue.js";
import * as search from "/assets/pages/search.js";
import * as searches from "/assets/pages/searches.js";
import * as signIn from "/assets/pages/signin.js";
import * as workers from "/assets/pages/workers.js";

const PAGES = [
  [/^\/(?:searches)?$/, searches, "/"],
  [/^\/searches\/([^/]+)$/, search, "/"],
  [/^\/architectures\/([^/]+)$/, architecture, "/"],
  [/^\/diff$/, diff, "/"],
  [/^\/curves$/, curves, "/curves"],
  [/^\/jobs$/, jobs, "/jobs"],
  [/^\/jobs\/([^/]+)$/, job, "/jobs"],
  [/^\/queue$/, queue, "/queue"],
  [/^\/devices$/, devices, "/devices"],
  [/^\/workers$/, workers, "/workers"],
  [/^\/events$/, events, "/events"],
  [/^\/sign-in$/, signIn, null],
];

const NAVIGATION = [["/", "Searches"], ["/jobs", "Jobs"], ["/queue", "Queue"], ["/devices", "Devices"], ["/workers", "Workers"], ["/curves", "Curves"], ["/events", "Events"]];

let leave = new AbortController();

function show(isFirst) {
  leave.abort();
  leave = new AbortController();
  if (!isFirst) clearResult();
  const found = PAGES.map(([pattern, page, place]) => [pattern.exec(location.pathname), page, place]).find(([match]) => match);
  for (const anchor of document.querySelectorAll("#nav a")) {
    if (anchor.getAttribute("href") === found?.[2]) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  const main = document.getElementById("main");
  if (!found) {
    document.title = "No such page – cakes";
    swap(main, el("h1", {}, "No such page"), empty(`Nothing is known under ${location.pathname}.`, el("a", { href: "/" }, "Go to the searches")));
    return;
  }
  const [match, wanted] = found;
  // Where reading needs a token, nothing else is shown before.
  const page = session.known.requires_token && !session.known.signed_in ? signIn : wanted;
  const host = el("div", { class: "page" });
  swap(main, host);
  const context = {
    host,
    id: match[1] ? decodeURIComponent(match[1]) : null,
    query: Object.fromEntries(new URLSearchParams(location.search)),
    signal: leave.signal,
    title: (text) => (document.title = `${text} – cakes`),
  };
  context.title(page.title);
  page.show(context);
  // A new page is read from its beginning.
  if (!isFirst) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
    announce(page.title);
  }
}

/// Goes to an address without loading anything anew.
export function go(address) {
  if (address === location.pathname + location.search) return;
  history.pushState(null, "", address);
  show(false);
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest("a[href]");
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const target = new URL(anchor.getAttribute("href"), location.href);
  if (target.origin !== location.origin || target.pathname.startsWith("/api/") || anchor.hasAttribute("download")) return;
  event.preventDefault();
  if (target.hash && target.pathname === location.pathname) {
    document.getElementById(target.hash.slice(1))?.focus();
    return;
  }
  go(target.pathname + target.search);
});

addEventListener("popstate", () => show(false));

function themes() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
  const name = () => {
    button.textContent = current() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${current() === "dark" ? "light" : "dark"} theme`);
  };
  button.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // It holds until the page is left.
    }
    name();
  });
  system.addEventListener("change", name);
  name();
}

function connection() {
  const status = document.getElementById("connection");
  const banner = document.getElementById("banner");
  live.watch((connected) => {
    if (status.dataset.connected === String(connected)) return;
    status.dataset.connected = String(connected);
    status.textContent = connected ? "live" : "not connected";
    banner.hidden = connected;
    banner.textContent = connected ? "" : "The coordinator does not answer. What you see may be old; the page connects again by itself.";
  });
}

document.getElementById("nav").append(...NAVIGATION.map(([href, text]) => el("li", {}, el("a", { href }, text))));

function account() {
  const host = document.getElementById("account");
  const { signed_in: isIn, name, role } = session.known;
  if (!isIn) {
    const here = location.pathname + location.search;
    swap(host, el("a", { href: "/sign-in", "data-key": "sign in", onclick: () => session.comeBackTo(here) }, "Sign in"));
    return;
  }
  swap(host, el("span", { class: "who" }, name, el("span", { class: "quiet" }, ` ${role}`)),
    el("button", { type: "button", class: "quiet", "data-key": "sign out", onclick: () => session.signOut() }, "Sign out"));
}

session.watch(() => {
  account();
  live.start();
  show(true);
});
onRefused(() => session.known.signed_in && session.load());
themes();
connection();
await session.load();
