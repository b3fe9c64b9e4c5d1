/** What the page lets a visitor set and its workers accept, in one place, so that a form never offers what a worker refuses. */

export const MIB = 2 ** 20;
/** In this tab or lent: more than any machine's cores; each has a WebAssembly memory, and pages may have some hundred of them. */
export const MAX_WORKERS = 32;
/** A connection each, of which browsers allow some two hundred; each is tried again and again while it is away. */
export const MAX_REMOTES = 16;
/** As the engine's own. */
export const MAX_IN_FLIGHT = 32;
export const MAX_MICRO_BATCH_ROWS = 4096;
/** Some blocks of the smallest models: what an experiment calls little. */
export const MIN_KV_BYTES = MIB / 16;
/** Each worker's memory has at most 4 GiB, as any 32-bit WASM. */
export const MAX_KV_BYTES = 16 * 1024 * MIB;
/** Injected, a round trip: a layer that takes a second shows nothing more. */
export const MAX_LATENCY_MS = 1000;
