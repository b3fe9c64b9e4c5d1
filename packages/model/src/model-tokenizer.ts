/** What this package's tokenizers tell beyond core's Tokenizer, for people who inspect a model. */
import type { Tokenizer } from '@glinthawk/core';

export interface ModelTokenizer extends Tokenizer {
  /** How it works and where it came from, e.g. `byte-level BPE (tokenizer.json)`. */
  readonly kind: string;
}

export const NO_BYTES: Uint8Array = new Uint8Array(0);

/** The byte of a SentencePiece byte token, `<0x0A>`; undefined for other tokens. */
export function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}
