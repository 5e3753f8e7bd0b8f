// Who is signed in here, and what they may do. What is shown follows from it; what is
// permitted is decided by the coordinator.

import { address, post } from "/assets/lib/api.js";

const NOBODY = { signed_in: false, requires_token: false, name: null, role: null, may: [], projects: {} };

class Session {
  constructor() {
    this.known = NOBODY;
    this.watcher = null;
    this.origin = "/";
  }

  watch(watcher) {
    this.watcher = watcher;
  }

  tell(known) {
    this.known = known;
    this.watcher?.();
  }

  async load() {
    let known = NOBODY;
    try {
      const response = await fetch(address("/session"), { headers: { accept: "application/json" } });
      if (response.ok) known = await response.json();
    } catch {
      // The banner says that the coordinator is away.
    }
    this.tell(known);
  }

  may(action) {
    return this.known.may.includes(action);
  }

  /// The role in a project: one with members says it of whoever submits.
  roleIn(project) {
    const { role, projects } = this.known;
    return role === "submitter" && Object.hasOwn(projects, project) ? projects[project] ?? "viewer" : role;
  }

  /// Whether whatever it adds to a project may be added there.
  mayIn(action, project) {
    return this.may(action) && this.roleIn(project) !== "viewer";
  }

  /// Where to go after signing in.
  comeBackTo(place) {
    if (!place.startsWith("/sign-in")) this.origin = place;
  }

  /// Throws an ApiError if the token is refused.
  async signIn(token) {
    const known = await post(address("/sign-in"), { token });
    if (location.pathname === "/sign-in") history.replaceState(null, "", this.origin);
    this.tell(known);
  }

  async signOut() {
    try {
      this.tell(await post(address("/sign-out")));
    } catch {
      await this.load();
    }
  }
}

export const session = new Session();
