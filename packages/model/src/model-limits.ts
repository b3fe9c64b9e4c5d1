/**
 * Caps on what a configuration may claim, each well above any published model: beyond them a file is damaged or hostile, and
 * nothing is allocated by its numbers.
 */
export const MAX_LAYERS = 1024;
export const MAX_HIDDEN = 1 << 18;
export const MAX_INTERMEDIATE = 1 << 21;
export const MAX_HEADS = 4096;
export const MAX_HEAD_DIM = 4096;
export const MAX_VOCAB = 1 << 22;
export const MAX_CONTEXT_TOKENS = 1 << 28;
/** Bytes of the JSON files beside the weights. */
export const MAX_CONFIG_BYTES = 16 * 2 ** 20;
export const MAX_TOKENIZER_BYTES = 256 * 2 ** 20;
