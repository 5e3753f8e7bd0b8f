// What charts have in common: frame, axes, tips, keys, and a table that says the same.

import { el, svg } from "/assets/lib/dom.js";

const NARROW = 260;

/// A chart that is drawn for the width that it gets.
///
/// `draw(width)` gives an SVG element; `table` is a node that holds the same figures.
export function figure({ title, about, draw, legend, table, key }) {
  const stage = el("div", { class: "stage" });
  const node = el("figure", { class: "chart" }, el("figcaption", {}, title, about ? el("p", { class: "about" }, about) : null), stage,
    legend ? el("ul", { class: "legend" }, legend.map(([mark, text]) => el("li", {}, mark, text))) : null,
    table ? el("details", { "data-key": `table ${key ?? title}` }, el("summary", {}, "Show as a table"), table) : null);
  let drawn = 0;
  const redraw = () => {
    const width = Math.max(NARROW, Math.floor(stage.clientWidth || NARROW));
    if (Math.abs(width - drawn) < 2) return;
    drawn = width;
    const focused = stage.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    stage.replaceChildren(draw(width));
    if (focused) [...stage.querySelectorAll("[data-key]")].find((mark) => mark.dataset.key === focused)?.focus({ preventScroll: true });
  };
  // The stage has no width before it stands in the page.
  new ResizeObserver(redraw).observe(stage);
  return node;
}

export function canvas(width, height, label, ...children) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label }, ...children);
}

export function linear([from, to], [start, end]) {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (end - start);
}

/// Round values between two bounds, about `count` of them.
export function ticks(from, to, count = 5) {
  const span = to - from;
  if (!(span > 0)) return [from];
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((part) => part >= rough * 0.99);
  const found = [];
  for (let value = Math.ceil(from / step) * step; value <= to + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

/// Bounds with some air around the values.
export function bounds(values, air = 0.06) {
  const known = values.filter(Number.isFinite);
  if (known.length === 0) return [0, 1];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const span = high - low || Math.abs(high) * 0.1 || 1;
  return [low - span * air, high + span * air];
}

/// Axes at the left and at the bottom of a box.
export function axes({ box, x, y, xTicks, yTicks, xText, yText, xTitle, yTitle }) {
  const parts = [];
  for (const value of yTicks) {
    parts.push(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
      svg("text", { x: box.left - 7, y: y(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  for (const value of xTicks) {
    parts.push(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: box.bottom, y2: box.bottom + 4 }),
      svg("text", { x: x(value), y: box.bottom + 17, "text-anchor": "middle" }, xText(value)));
  }
  parts.push(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  if (xTitle) parts.push(svg("text", { class: "axis-title", x: box.right, y: box.bottom + 34, "text-anchor": "end" }, xTitle));
  if (yTitle) parts.push(svg("text", { class: "axis-title", x: 0, y: box.top - 8 }, yTitle));
  return svg("g", { "aria-hidden": "true" }, ...parts);
}

let tipNode = null;

/// Shows `text` beside a mark while it has the pointer or the focus.
export function tip(node, text) {
  const show = (event) => {
    tipNode ??= document.body.appendChild(el("div", { class: "tip", role: "presentation" }));
    tipNode.textContent = text;
    tipNode.hidden = false;
    const place = node.getBoundingClientRect();
    const [x, y] = event.type === "focus" ? [place.right, place.top] : [event.clientX, event.clientY];
    const { offsetWidth, offsetHeight } = tipNode;
    tipNode.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - offsetWidth - 8))}px`;
    tipNode.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - offsetHeight - 8))}px`;
  };
  const hide = () => tipNode && (tipNode.hidden = true);
  node.addEventListener("pointerenter", show);
  node.addEventListener("pointermove", show);
  node.addEventListener("focus", show);
  node.addEventListener("pointerleave", hide);
  node.addEventListener("blur", hide);
  return node;
}

addEventListener("popstate", () => tipNode && (tipNode.hidden = true));
addEventListener("click", () => tipNode && (tipNode.hidden = true));

/// One stop for the tab key; arrows move among the marks. `columns` is the length of a
/// row where marks lie in a grid.
export function roving(marks, columns = 1) {
  marks.forEach((mark, place) => {
    mark.setAttribute("tabindex", place === 0 ? "0" : "-1");
    mark.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: marks.length - 1 - place };
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        mark.dispatchEvent(new MouseEvent("click", { bubbles: true }));
        return;
      }
      const step = steps[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = marks[Math.min(marks.length - 1, Math.max(0, place + step))];
      mark.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
  return marks;
}
