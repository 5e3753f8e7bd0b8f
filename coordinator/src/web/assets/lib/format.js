// Numbers with units, times, and names that people read.

const THIN = "\u202f";

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-3 || magnitude >= 1e6)) return value.toExponential(2);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
}

/// 1.2 k, 3.4 M, 5.6 G.
export function si(value, unit = "") {
  const known = Number(value);
  if (!Number.isFinite(known)) return "–";
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, prefix] = steps.find(([size]) => Math.abs(known) >= size) ?? [1, ""];
  const scaled = known / size;
  const text = scaled >= 100 || Number.isInteger(scaled) ? scaled.toFixed(0) : scaled.toFixed(scaled >= 10 ? 1 : 2);
  return `${text}${THIN}${prefix}${unit}`.trim();
}

export const macs = (value) => si(value, "MAC");
export const count = (value) => Number(value).toLocaleString("en");
export const share = (value) => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)}${THIN}%`;
export const quality = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
export const milliseconds = (value) => (value ? `${number(value)}${THIN}ms` : "–");
export const mebibytes = (value) => (value >= 1024 ? `${number(value / 1024)}${THIN}GiB` : `${Math.round(value)}${THIN}MiB`);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}${THIN}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}${THIN}min ${String(whole % 60).padStart(2, "0")}${THIN}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}${THIN}h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")}${THIN}min`;
  return `${Math.floor(whole / 86400)}${THIN}d ${Math.floor((whole % 86400) / 3600)}${THIN}h`;
}

/// Short times in seconds, as the coordinator says them.
const deviceUnit = (seconds) => (seconds < 360 ? [1, "device-seconds"] : [3600, "device-hours"]);
const hundredths = (value) => Math.round(100 * value) / 100;

/// Time on devices: 24 device-hours, 11 device-seconds.
export function deviceTime(seconds) {
  const [size, unit] = deviceUnit(seconds);
  return `${hundredths(seconds / size)} ${unit}`;
}

/// Time on devices that was used: the same, or nothing.
export const deviceTimeUsed = (seconds) => (seconds > 0 ? deviceTime(seconds) : "nothing");

/// What is used of it: 2.51 of 24 device-hours, at first 36 device-seconds of 24 device-hours.
export function deviceTimeOf(used, limit) {
  const [size, unit] = deviceUnit(limit);
  // One unit for both, but where little is used of much: it would be 0.
  const [, finer] = deviceUnit(Math.min(used, limit));
  return `${unit === finer ? hundredths(used / size) : deviceTimeUsed(used)} of ${deviceTime(limit)}`;
}

export function ago(time, now = Date.now()) {
  const seconds = (now - new Date(time).getTime()) / 1000;
  return seconds < 2 ? "just now" : `${duration(seconds)} ago`;
}

/// As on a clock here: 2026-05-03 14:07:31.
export function clock(time) {
  const date = new Date(time);
  const two = (part) => String(part).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export const short = (id) => String(id ?? "").slice(0, 8);
export const words = (name) => String(name ?? "").replaceAll("_", " ");

const METRICS = { mean_dice: "mean Dice", top1: "top-1" };
export const metric = (name) => METRICS[name] ?? words(name ?? "quality");

/// A state as the wire names it: JOB_STATE_RUNNING.
export const wireState = (name, prefix) => String(name ?? "").replace(prefix, "").toLowerCase();
