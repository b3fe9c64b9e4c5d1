/**
 * How a token is written in log-probabilities: its text where it is whole characters, `bytes:\xe2\x80` where it is a part of
 * one (as OpenAI writes it), `token_id:123` where it has no text of its own (a special token, no tokenizer) or that was asked for.
 */
import type { Tokenizer } from '@glinthawk/core';

export interface TokenText {
  /** Unique among tokens of different bytes: fit to be a key. */
  key(tokenId: number): string;
  /** As `key`, but a part of a character is U+FFFD: the bytes stand beside it. */
  chat(tokenId: number): string;
  bytes(tokenId: number): readonly number[] | null;
  /** UTF-16 units that it adds to the text; 0 when it is a part of a character. */
  characters(tokenId: number): number;
}

export function tokenTexts(tokenizer: Tokenizer | null, asIds: boolean): TokenText {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const lenient = new TextDecoder('utf-8', { ignoreBOM: true });
  const bytesOf = (tokenId: number): Uint8Array => tokenizer?.tokenBytes(tokenId) ?? new Uint8Array(0);
  const whole = (bytes: Uint8Array): string | null => {
    try {
      return strict.decode(bytes);
    } catch {
      return null;
    }
  };
  const byId = (tokenId: number) => `token_id:${tokenId}`;
  const isNamedById = (bytes: Uint8Array) => asIds || bytes.length === 0;
  return {
    key(tokenId) {
      const bytes = bytesOf(tokenId);
      if (isNamedById(bytes)) return byId(tokenId);
      return (
        whole(bytes) ?? `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
      );
    },
    chat(tokenId) {
      const bytes = bytesOf(tokenId);
      return isNamedById(bytes) ? byId(tokenId) : lenient.decode(bytes);
    },
    bytes(tokenId) {
      const bytes = bytesOf(tokenId);
      return bytes.length === 0 ? null : Array.from(bytes);
    },
    characters(tokenId) {
      return whole(bytesOf(tokenId))?.length ?? 0;
    },
  };
}
