/**
 * Text out of tokens, as it becomes certain: characters whose bytes are spread over several tokens wait for the last of them
 * (bytes that can't become a character turn into U+FFFD as the WHATWG decoder has it), and text that may turn out to begin
 * a stop string is held back. The stop string that completes first ends the text, which then lacks it; of those that complete
 * at the same character, the longest. So neither depends on how the text was cut into tokens.
 */
import type { Tokenizer } from '@glinthawk/core';

/** Most stop strings of a request, as in OpenAI's API. */
export const MAX_STOP_STRINGS = 4;

export interface TextPiece {
  /** Text that is now certain. */
  readonly text: string;
  /** A stop string was completed; nothing comes after this. */
  readonly stopped: boolean;
}

export class Detokenizer {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #stops: readonly string[];
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #held = '';

  /** Without a tokenizer every text is empty. Empty stop strings are ignored. */
  constructor(tokenizer: Tokenizer | undefined, stops: readonly string[]) {
    this.#tokenizer = tokenizer;
    this.#stops = stops.filter((stop) => stop.length > 0);
  }

  push(tokenId: number): TextPiece {
    if (this.#tokenizer === undefined) return { text: '', stopped: false };
    const bytes = this.#tokenizer.tokenBytes(tokenId);
    if (bytes.length === 0) return { text: '', stopped: false };
    return this.#advance(this.#decoder.decode(bytes, { stream: true }));
  }

  /** No token follows: releases what was held back; bytes of an unfinished character become U+FFFD. */
  end(): TextPiece {
    const piece = this.#advance(this.#decoder.decode());
    if (piece.stopped) return piece;
    const text = piece.text + this.#held;
    this.#held = '';
    return { text, stopped: false };
  }

  #advance(decoded: string): TextPiece {
    const text = this.#held + decoded;
    if (this.#stops.length === 0) return { text, stopped: false };
    const cut = this.#findStop(text);
    if (cut >= 0) {
      this.#held = '';
      return { text: text.slice(0, cut), stopped: true };
    }
    const certain = text.length - this.#unsure(text);
    this.#held = text.slice(certain);
    return { text: text.slice(0, certain), stopped: false };
  }

  /** Where the stop string that completes first begins, or -1. */
  #findStop(text: string): number {
    let bestEnd = Number.POSITIVE_INFINITY;
    let bestStart = -1;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (end < bestEnd || (end === bestEnd && start < bestStart)) {
        bestEnd = end;
        bestStart = start;
      }
    }
    return bestStart;
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #unsure(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          longest = length;
          break;
        }
      }
    }
    return longest;
  }
}
