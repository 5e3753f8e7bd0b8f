// Rows of long lists, fetched page by page as they are looked at.

/// Rows behind a cursor, newest first. `fetchPage(after)` gives { rows, next, total },
/// where total may be unknown; `keyOf(row)` falls from row to row, and a cursor is the
/// key of the last row before it.
export class CursorSource {
  constructor(fetchPage, keyOf) {
    this.fetchPage = fetchPage;
    this.keyOf = keyOf;
    this.pages = [];
    this.starts = [];
    this.known = null;
    this.work = Promise.resolve();
  }

  get loaded() {
    return this.pages.length === 0 ? 0 : this.starts[this.pages.length - 1] + this.pages[this.pages.length - 1].rows.length;
  }

  get isWhole() {
    return this.pages.length > 0 && this.pages[this.pages.length - 1].next === null;
  }

  /// Rows to make room for.
  get length() {
    if (this.isWhole) return this.loaded;
    return Math.max(this.loaded + 1, this.known ?? 0);
  }

  /// As `aria-rowcount` has it: -1 for nobody knows.
  get total() {
    return this.isWhole || this.known !== null ? this.length : -1;
  }

  row(index) {
    const page = this.pageOf(index);
    return page === -1 ? undefined : this.pages[page].rows[index - this.starts[page]];
  }

  pageOf(index) {
    return this.starts.findLastIndex((start, page) => start <= index && index < start + this.pages[page].rows.length);
  }

  /// One after the other: a page begins where the one before it ends.
  inTurn(work) {
    this.work = this.work.then(work, work);
    return this.work;
  }

  /// Loads until the row is there, or there are no more.
  ensure(_, index, progress) {
    return this.inTurn(async () => {
      while (!this.isWhole && this.loaded <= index) {
        const after = this.pages.length === 0 ? null : this.pages[this.pages.length - 1].next;
        const page = await this.fetchPage(after);
        this.starts.push(this.loaded);
        this.pages.push({ after, rows: page.rows, next: page.next });
        this.known = page.total ?? null;
        this.answer = page.answer;
        progress?.();
      }
    });
  }

  /// Asks again for the first page, which new rows come to, and for those of some rows.
  refresh(from, to) {
    return this.inTurn(async () => {
      const seen = this.pages.map((_, place) => place).filter((place) => place === 0 || (this.starts[place] <= to && from < this.starts[place] + this.pages[place].rows.length));
      for (const place of seen) {
        const page = this.pages[place];
        if (!page) break;
        const fresh = await this.fetchPage(page.after);
        this.known = fresh.total ?? null;
        this.answer = fresh.answer;
        if (!this.merge(place, page, fresh)) break;
      }
      this.starts = [];
      let start = 0;
      for (const page of this.pages) {
        this.starts.push(start);
        start += page.rows.length;
      }
    });
  }

  merge(place, page, fresh) {
    const isLast = place === this.pages.length - 1;
    if (isLast && fresh.next === null) {
      this.pages[place] = { ...page, rows: fresh.rows, next: null };
      return true;
    }
    const lowest = fresh.rows.length === 0 ? Infinity : this.keyOf(fresh.rows[fresh.rows.length - 1]);
    if (page.rows.length > 0 && fresh.next !== null && lowest > this.keyOf(page.rows[0])) {
      // So much is new that what lies between is not known.
      this.pages = [{ after: null, rows: fresh.rows, next: fresh.next }];
      return false;
    }
    const inPage = page.next === null ? fresh.rows : fresh.rows.filter((row) => this.keyOf(row) >= page.next);
    const behind = fresh.next === null ? [] : page.rows.filter((row) => this.keyOf(row) < lowest);
    this.pages[place] = { ...page, rows: inPage.concat(behind) };
    return true;
  }
}

/// Rows by their place. `fetchPage(offset)` gives { rows, total }.
export class OffsetSource {
  constructor(fetchPage, size) {
    this.fetchPage = fetchPage;
    this.size = size;
    this.blocks = new Map();
    this.length = 0;
    this.work = Promise.resolve();
  }

  get total() {
    return this.length;
  }

  row(index) {
    return this.blocks.get(Math.floor(index / this.size))?.[index % this.size];
  }

  async load(block) {
    const page = await this.fetchPage(block * this.size);
    this.blocks.set(block, page.rows);
    this.length = page.total;
    this.answer = page.answer;
  }

  places(from, to) {
    const first = Math.max(0, Math.floor(from / this.size));
    return Array.from({ length: Math.max(1, Math.floor(to / this.size) - first + 1) }, (_, place) => first + place);
  }

  inTurn(work) {
    this.work = this.work.then(work, work);
    return this.work;
  }

  ensure(from, to, progress) {
    return this.inTurn(async () => {
      for (const block of this.places(from, to)) {
        if (this.blocks.has(block)) continue;
        await this.load(block);
        progress?.();
      }
    });
  }

  refresh(from, to) {
    return this.inTurn(async () => {
      const wanted = this.places(from, to);
      for (const block of this.blocks.keys()) if (!wanted.includes(block)) this.blocks.delete(block);
      for (const block of wanted) await this.load(block);
    });
  }
}
