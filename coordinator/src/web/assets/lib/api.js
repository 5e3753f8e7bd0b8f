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

/// The answer as text and as what it says.
///
/// Throws an ApiError if there is none.
export async function get(url, signal) {
  let response;
  let text;
  try {
    response = await fetch(url, { signal, headers: { accept: "application/json" } });
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
    throw new ApiError(response.status, data?.error?.code ?? "UNKNOWN", data?.error?.message ?? `Status ${response.status}`);
  }
  return { text, data };
}
