/**
 * A model's identity: SHA-256 over its configuration, texts (tokenizer, template), tensor table and samples of the weights.
 * Quick whatever the size of the model, so a change that touches no sample goes unnoticed; edits of weights in practice
 * (another training step, another quantisation) touch all.
 */
import type { ModelConfig } from '@glinthawk/core';
import { sha256 } from '@noble/hashes/sha2.js';
import type { WeightTable } from './weight-table.ts';

/** Bytes read at the start, the middle and the end of each tensor. */
const SAMPLE_BYTES = 512;

/**
 * @param texts what else makes the model what it is, e.g. the bytes of tokenizer.json; order counts
 * @param sampled whether weights are sampled; without, it is the fingerprint of a model's headers, and another one
 * @returns 64 hex digits
 */
export async function fingerprintOf(
  config: ModelConfig,
  texts: readonly (Uint8Array<ArrayBuffer> | string)[],
  weights: WeightTable,
  sampled = true,
): Promise<string> {
  const encoder = new TextEncoder();
  const parts: Uint8Array<ArrayBuffer>[] = [encoder.encode(JSON.stringify(config))];
  for (const text of texts) parts.push(digestOf(typeof text === 'string' ? encoder.encode(text) : text));
  for (const name of weights.names()) {
    const { stored, shape, storedBytes } = weights.info(name);
    const { file, offset } = weights.tensor(name);
    parts.push(encoder.encode(`\n${name} ${stored} ${shape.join('x')}\n`));
    if (!sampled) continue;
    const length = Math.min(SAMPLE_BYTES, storedBytes);
    const last = storedBytes - length;
    for (const at of new Set([0, Math.floor(last / 2), last])) parts.push(await file.read(offset + at, length));
  }
  const digest = digestOf(new Uint8Array(await new Blob(parts).arrayBuffer()));
  return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Not WebCrypto's, which pages that are served by plain http over a network don't have. */
function digestOf(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(sha256(bytes));
}
