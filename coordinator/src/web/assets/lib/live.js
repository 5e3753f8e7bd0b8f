// What changed, as the coordinator tells it; and whether it is there.

const RETRY_MS = 2000;
const REFRESH_MS = 1000;

class Live {
  constructor() {
    this.listeners = new Set();
    this.watchers = new Set();
    this.connected = false;
    this.pending = null;
    this.timer = null;
  }

  /// Listens anew: who is signed in may be told other things.
  start() {
    this.source?.close();
    const source = new EventSource("/api/v1/changes");
    this.source = source;
    source.onmessage = (message) => {
      this.tell(true);
      this.changed(JSON.parse(message.data));
    };
    source.onerror = () => {
      this.tell(false);
      // The browser connects again by itself unless it was refused.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.source === source && this.start(), RETRY_MS);
    };
  }

  /// A question found nobody there.
  lost() {
    this.tell(false);
  }

  tell(connected) {
    this.connected = connected;
    for (const watcher of this.watchers) watcher(connected);
  }

  /// Several changes within a second are one.
  changed(change) {
    const before = this.pending ?? { more: false, searches: [], jobs: [], workers: [] };
    this.pending = {
      more: before.more || change.more,
      searches: before.searches.concat(change.searches ?? []),
      jobs: before.jobs.concat(change.jobs ?? []),
      workers: before.workers.concat(change.workers ?? []),
    };
    this.timer ??= setTimeout(() => {
      const told = this.pending;
      this.pending = null;
      this.timer = null;
      for (const listener of this.listeners) listener(told);
    }, REFRESH_MS);
  }

  /// Calls `listener` after changes until `signal` aborts.
  listen(listener, signal) {
    this.listeners.add(listener);
    signal.addEventListener("abort", () => this.listeners.delete(listener));
  }

  watch(watcher) {
    this.watchers.add(watcher);
  }
}

export const live = new Live();

addEventListener("pagehide", () => live.source?.close());
addEventListener("pageshow", (event) => event.persisted && location.reload());
