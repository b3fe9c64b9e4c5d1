/**
 * Layers whose KV is paged together: all of a group have the same window, and each group has as many layers, so that a KV block
 * of any group takes as many bytes. Both ends of the wire derive the groups from the geometry alone.
 */
import type { AttentionGeometry } from './model-config.ts';

export interface LayerGroup {
  /** Indices of its layers, ascending. */
  readonly layers: readonly number[];
  /** How many latest tokens its layers see; 0 is all. */
  readonly window: number;
}

/** Groups of equal size, as large as the windows allow: one for a model whose layers are alike. */
export function layerGroups({ layers, windows }: Pick<AttentionGeometry, 'layers' | 'windows'>): readonly LayerGroup[] {
  const byWindow = new Map<number, number[]>();
  for (let layer = 0; layer < layers; layer++) {
    const window = windows[layer] ?? 0;
    const same = byWindow.get(window);
    if (same === undefined) byWindow.set(window, [layer]);
    else same.push(layer);
  }
  let size = 0;
  for (const { length } of byWindow.values()) size = greatestCommonDivisor(size, length);
  const groups: LayerGroup[] = [];
  for (const [window, all] of byWindow) {
    for (let at = 0; at < all.length; at += size) groups.push({ layers: all.slice(at, at + size), window });
  }
  return groups;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
