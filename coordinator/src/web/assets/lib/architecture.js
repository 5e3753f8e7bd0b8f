// Kernels and channel allocations. The colours are those of the command's plots.

export const KERNELS = [
  ["3x3x3", "#332288"],
  ["1x3x3", "#117733"],
  ["3x1x3", "#44aa99"],
  ["3x3x1", "#88ccee"],
  ["3x1x1", "#ddcc77"],
  ["1x3x1", "#cc6677"],
  ["1x1x3", "#882255"],
  ["1x1x1", "#bbbbbb"],
];

const COLOURS = new Map(KERNELS);
export const colour = (kernel) => COLOURS.get(kernel) ?? "#777777";
export const width = (channels) => Object.values(channels).reduce((sum, part) => sum + part, 0);

/// Kernels that any of the layers uses, in canonical order.
export function used(layers) {
  const found = new Set(layers.flatMap((layer) => Object.entries(layer.channels).filter(([, part]) => part > 0).map(([kernel]) => kernel)));
  return KERNELS.map(([kernel]) => kernel).filter((kernel) => found.has(kernel));
}

/// "3x3x3 5, 1x3x3 11".
export function spell(channels) {
  const parts = KERNELS.map(([kernel]) => [kernel, channels[kernel] ?? 0]).filter(([, part]) => part > 0);
  return parts.map(([kernel, part]) => `${kernel}\u00a0${part}`).join(", ");
}

/// Channels of the whole network by kernel.
export function total(layers) {
  const sum = {};
  for (const layer of layers) for (const [kernel, part] of Object.entries(layer.channels)) sum[kernel] = (sum[kernel] ?? 0) + part;
  return sum;
}

export const origins = (architecture) => (architecture?.origins ?? []).join(", ").replaceAll("_", " ") || "unnamed";
export const isBaseline = (architecture) => (architecture?.origins ?? []).some((origin) => origin.startsWith("baseline"));
export const isRandom = (architecture) => !isBaseline(architecture) && (architecture?.origins ?? []).every((origin) => origin.startsWith("random"));

/// Entries that no other beats in quality and cost, by rising cost.
export function front(points) {
  const sorted = [...points].sort((left, right) => left.cost - right.cost || right.quality - left.quality);
  let best = -Infinity;
  return sorted.filter((point) => {
    if (point.quality <= best) return false;
    best = point.quality;
    return true;
  });
}
