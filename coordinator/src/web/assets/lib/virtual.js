// A list of any length, of which only what is seen is drawn.

import { el, swap } from "/assets/lib/dom.js";
import { live } from "/assets/lib/live.js";
import { failure } from "/assets/lib/widgets.js";

const ROW_PX = 54;
/// Rows drawn above and below what is seen.
const MARGIN = 8;
let grids = 0;

/// Keeps a list in `host`: `source` as in sources.js, `columns` are [title, class, width, width
/// on a phone], `cells(row)` nodes, `before(answer)` what stands above, `none(answer)` what is shown
/// instead of no rows. Gives a function that shows another source.
export function virtualList(host, { caption, columns, source: first, cells, before, none, concerns, signal }) {
  const head = el("div", {});
  const body = el("div", {});
  host.append(head, body);
  let source = first;
  let grid = null;
  const draw = () => {
    swap(head, before?.(source.answer));
    if (source.length === 0) {
      grid = null;
      swap(body, none(source.answer));
      return;
    }
    if (!grid) {
      grid = new Grid(caption, columns, cells, (from, to) => load(from, to));
      swap(body, grid.node);
    }
    grid.show(source);
  };
  const load = async (from, to) => {
    const asked = source;
    try {
      await asked.ensure(from, to, () => asked === source && draw());
    } catch (error) {
      failed(error);
    }
  };
  const failed = (error) => {
    if (signal.aborted) return;
    if (!grid) swap(body, failure(error));
    else console.error(error.message);
  };
  let busy = false;
  let again = false;
  const refresh = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    const asked = source;
    try {
      const [from, to] = grid?.range() ?? [0, 0];
      await asked.refresh(from, to);
      if (asked.length === 0 || asked.row(0) === undefined) await asked.ensure(0, 0);
      if (asked === source) draw();
    } catch (error) {
      failed(error);
    } finally {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  };
  const start = async () => {
    host.setAttribute("aria-busy", "true");
    const asked = source;
    await load(0, 0);
    if (asked !== source) return;
    if (!grid) draw();
    host.removeAttribute("aria-busy");
  };
  live.listen((change) => (change.more || !concerns || concerns(change)) && source.answer !== undefined && refresh(), signal);
  start();
  return (next) => {
    source = next;
    grid?.leave();
    grid = null;
    start();
  };
}

class Grid {
  constructor(caption, columns, cells, load) {
    this.id = `grid-${(grids += 1)}`;
    this.columns = columns;
    this.cells = cells;
    this.load = load;
    this.drawn = new Map();
    this.active = 0;
    const widths = columns.map(([, , width]) => width).join(" ");
    const narrow = columns.filter(([, kind]) => !/\bwide\b/.test(kind ?? "")).map(([, , width, less]) => less ?? width).join(" ");
    const titles = el("div", { class: "vrow vhead", role: "row", "aria-rowindex": 1 }, columns.map(([title, kind]) => el("div", { role: "columnheader", class: kind }, title)));
    this.space = el("div", { class: "vspace", role: "rowgroup" });
    this.node = el("div", { class: "vgrid", role: "grid", tabindex: 0, "aria-label": caption, "data-key": `grid ${caption}`, style: { "--columns": widths, "--narrow": narrow, "--row": `${ROW_PX}px` }, onkeydown: (event) => this.press(event), onfocus: () => this.mark() },
      el("div", { role: "rowgroup", class: "vtitles" }, titles), this.space);
    this.node.addEventListener("scroll", () => this.later(), { passive: true });
    this.observer = new ResizeObserver(() => this.later());
    this.observer.observe(this.node);
  }

  leave() {
    this.observer.disconnect();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  show(source) {
    this.source = source;
    this.node.setAttribute("aria-rowcount", source.total === -1 ? -1 : source.total + 1);
    this.space.style.setProperty("height", `${source.length * ROW_PX}px`);
    this.draw();
  }

  /// The rows that are seen.
  range() {
    const from = Math.max(0, Math.floor(this.node.scrollTop / ROW_PX));
    return [from, Math.min(this.source.length - 1, from + Math.ceil((this.node.clientHeight || 600) / ROW_PX))];
  }

  draw() {
    if (!this.source) return;
    const [from, to] = this.range();
    const [low, high] = [Math.max(0, from - MARGIN), Math.min(this.source.length - 1, to + MARGIN)];
    for (const [index, { node }] of this.drawn) {
      if (index >= low && index <= high) continue;
      if (node.contains(document.activeElement)) this.node.focus({ preventScroll: true });
      node.remove();
      this.drawn.delete(index);
    }
    let isMissing = false;
    for (let index = low; index <= high; index += 1) {
      const row = this.source.row(index);
      isMissing ||= row === undefined;
      this.place(index, row);
    }
    if (isMissing) this.load(low, high);
    this.mark();
  }

  place(index, row) {
    const text = JSON.stringify(row) ?? "";
    const before = this.drawn.get(index);
    if (before?.text === text) return;
    const parts = row === undefined ? ["…"] : this.cells(row);
    const node = el("div", { class: "vrow", role: "row", id: `${this.id}-${index}`, "aria-rowindex": index + 2, style: { top: `${index * ROW_PX}px` }, onpointerdown: () => this.move(index, false) },
      parts.map((cell, place) => el("div", { role: place === 0 ? "rowheader" : "gridcell", class: this.columns[place][1] }, el("div", { class: "clamp" }, cell))));
    for (const anchor of node.querySelectorAll("a")) anchor.tabIndex = -1;
    const focused = before?.node.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    if (before) before.node.replaceWith(node);
    else this.space.append(node);
    this.drawn.set(index, { text, node });
    if (focused) (node.querySelector(`a[href="${CSS.escape(focused)}"]`) ?? this.node).focus({ preventScroll: true });
  }

  /// One row is active: the arrows lead to it, and the tab key to its links.
  mark() {
    this.active = Math.min(this.active, this.source.length - 1);
    for (const [index, { node }] of this.drawn) {
      const isActive = index === this.active;
      if (node.classList.contains("active") === isActive && isActive === (node.querySelector("a")?.tabIndex === 0)) continue;
      node.classList.toggle("active", isActive);
      for (const anchor of node.querySelectorAll("a")) anchor.tabIndex = isActive ? 0 : -1;
    }
    if (this.drawn.has(this.active)) this.node.setAttribute("aria-activedescendant", `${this.id}-${this.active}`);
    else this.node.removeAttribute("aria-activedescendant");
  }

  move(index, isSeen = true) {
    this.active = Math.max(0, Math.min(this.source.length - 1, index));
    if (isSeen) {
      const head = this.space.offsetTop;
      const top = this.active * ROW_PX;
      const room = this.node.clientHeight - head;
      if (top < this.node.scrollTop) this.node.scrollTop = top;
      else if (top + ROW_PX > this.node.scrollTop + room) this.node.scrollTop = top + ROW_PX - room;
    }
    this.draw();
  }

  press(event) {
    if (event.target !== this.node || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") {
      this.drawn.get(this.active)?.node.querySelector("a")?.click();
      return;
    }
    const page = Math.max(1, Math.floor(this.node.clientHeight / ROW_PX) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.move(this.active + step);
  }
}
