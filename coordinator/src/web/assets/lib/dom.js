// Elements without markup: text only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") {
      for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
    } else if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/// A link within the page.
export function link(href, text, properties) {
  return el("a", { href, ...properties }, text);
}

function keyOf(node) {
  return node.dataset?.key ?? node.getAttribute?.("href") ?? node.id ?? null;
}

/// Puts new content into `host`; what had the focus or was opened before has it again.
export function swap(host, ...nodes) {
  const active = host.contains(document.activeElement) ? document.activeElement : null;
  const key = active && active !== host ? keyOf(active) : null;
  const opened = new Set([...host.querySelectorAll("details[open][data-key]")].map((node) => node.dataset.key));
  const scrolled = new Map([...host.querySelectorAll("[data-scroll]")].map((node) => [node.dataset.scroll, [node.scrollLeft, node.scrollTop]]));
  host.replaceChildren(...nodes.flat(4).filter(Boolean));
  for (const node of host.querySelectorAll("details[data-key]")) if (opened.has(node.dataset.key)) node.open = true;
  for (const node of host.querySelectorAll("[data-scroll]")) {
    const place = scrolled.get(node.dataset.scroll);
    if (place) [node.scrollLeft, node.scrollTop] = place;
  }
  if (!key) return;
  for (const node of host.querySelectorAll("a, button, input, select, summary, [tabindex]")) {
    if (keyOf(node) === key) {
      node.focus({ preventScroll: true });
      return;
    }
  }
}

export function announce(text) {
  const announcer = document.getElementById("announcer");
  if (announcer.textContent !== text) announcer.textContent = text;
}
