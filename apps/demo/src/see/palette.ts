/**
 * Colours of micro-batches and sequences. Micro-batches take the hues of Okabe and Ito (told apart under the common colour
 * blindnesses; violet for their black), darkened or lightened until each stands out from its ground; beyond eight they repeat, and the track within the
 * lane tells them apart. Sequences are told apart from their neighbours only, so twelve hues in a scattered order do.
 */

export type Scheme = 'light' | 'dark';

const MICRO_BATCHES: Readonly<Record<Scheme, readonly string[]>> = {
  light: ['#d98200', '#2a8fcf', '#00805c', '#b3a100', '#0a5c9e', '#c04a00', '#b0568a', '#6a4fb0'],
  dark: ['#f0a830', '#62bdf0', '#1fb98c', '#ece04f', '#4f93d8', '#ee7433', '#dc90bd', '#b3a2f5'],
};

// biome-ignore format: one line a scheme is the row of swatches that it is
const SEQUENCES: Readonly<Record<Scheme, readonly string[]>> = {
  light: [
    '#0b7285', '#d98200', '#5f55b0', '#4c8a2f', '#c04a70', '#2a8fcf', '#9a6b00', '#00805c', '#a34fb0', '#b8480f', '#3d6f9e', '#7a8a1e',
  ],
  dark: [
    '#4fd1c5', '#f0a830', '#a79bf2', '#93cf6b', '#f288ac', '#62bdf0', '#d8b45a', '#1fb98c', '#d58ae3', '#ff9a5c', '#8ab6e0', '#c4d45c',
  ],
};

export function microBatchColour(microBatch: number, scheme: Scheme): string {
  const colours = MICRO_BATCHES[scheme];
  return colours[microBatch % colours.length] ?? '';
}

/** How opaque what is on its way is drawn, beside what is being computed. */
export const TRAVEL_OPACITY: Readonly<Record<Scheme, number>> = { light: 0.4, dark: 0.45 };

export function sequenceColour(place: number, scheme: Scheme): string {
  const colours = SEQUENCES[scheme];
  return colours[place % colours.length] ?? '';
}
