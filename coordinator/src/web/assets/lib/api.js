// Questions to the coordinator.

import { live } from "/assets/lib/live.js";

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function address(path, query) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  return `/api/v1${path}${text ? `?${text}` : ""}`;
}

async function ask(url, request) {
  const { signal } = request;
  let response;
  let text;
  try {
    response = await fetch(url, request);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    live.lost();
    throw new ApiError(0, "UNREACHABLE", "The coordinator does not answer.");
  }
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    throw new ApiError(response.status, "NO_JSON", `The coordinator answered with ${response.status} and no JSON.`);
  }
  if (!response.ok) {
    if (response.status === 401) refused?.();
    throw new ApiError(response.status, data?.error?.code ?? "UNKNOWN", data?.error?.message ?? `Status ${response.status}`);
  }
  return { text, data };
}

let refused = null;

/// Calls `listener` when the coordinator no longer knows who asks.
export function onRefused(listener) {
  refused = listener;
}

/// The answer as text and as what it says.
///
/// Throws an ApiError if there is none.
export const get = (url, signal) => ask(url, { signal, headers: { accept: "application/json" } });

/// Asks for a change; what the coordinator answers.
///
/// Throws an ApiError if it is refused.
export async function post(url, body) {
  const headers = { accept: "application/json", "content-type": "application/json" };
  return (await ask(url, { method: "POST", headers, body: JSON.stringify(body ?? {}) })).data;
}
