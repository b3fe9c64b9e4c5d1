import type { Tokenizer } from '@glinthawk/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Detokenizer } from './detokenizer.ts';

/** A tokenizer whose tokens are given pieces of bytes. */
function tokenizerOf(pieces: readonly Uint8Array[]): Tokenizer {
  return {
    vocabSize: pieces.length,
    encode: () => [],
    tokenBytes: (id) => pieces[id] ?? new Uint8Array(),
    isSpecial: () => false,
  };
}

/** Cuts bytes into pieces of the given lengths, over and over. */
function cut(bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const length = lengths[i % lengths.length] ?? 1;
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return pieces;
}

interface Streamed {
  readonly texts: readonly string[];
  readonly text: string;
  readonly stopped: boolean;
}

function stream(pieces: readonly Uint8Array[], stops: readonly string[]): Streamed {
  const detokenizer = new Detokenizer(tokenizerOf(pieces), stops);
  const texts: string[] = [];
  for (const id of pieces.keys()) {
    const { text, stopped } = detokenizer.push(id);
    texts.push(text);
    if (stopped) return { texts, text: texts.join(''), stopped: true };
  }
  const { text, stopped } = detokenizer.end();
  texts.push(text);
  return { texts, text: texts.join(''), stopped };
}

/** Character by character: the text up to where a stop string first completes. */
function stopNaively(text: string, stops: readonly string[]): string {
  for (let end = 1; end <= text.length; end++) {
    const done = stops.filter((stop) => stop.length > 0 && text.slice(0, end).endsWith(stop));
    if (done.length > 0) return text.slice(0, end - Math.max(...done.map((stop) => stop.length)));
  }
  return text;
}

const bytesOf = (text: string) => new TextEncoder().encode(text);
const lengths = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 8 });

describe('text', () => {
  it('any bytes, cut anywhere, stream as the whole decodes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), lengths, (bytes, at) => {
        const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
        expect(stream(cut(bytes, at), []).text).toBe(whole);
      }),
    );
  });

  it('any text, cut anywhere, never shows half a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 30 }), lengths, (text, at) => {
        const { texts, text: streamed } = stream(cut(bytesOf(text), at), []);
        expect(streamed).toBe(text);
        for (const piece of texts)
          expect(piece.isWellFormed() && !piece.includes('\ufffd')).toBe(!text.includes('\ufffd'));
      }),
    );
  });

  it('a character cut short at the end becomes U+FFFD', () => {
    expect(stream([bytesOf('a€').subarray(0, 3)], []).text).toBe('a\ufffd');
    expect(stream([Uint8Array.of(0xef, 0xbb, 0xbf, 0x61)], []).text).toBe('\ufeffa');
  });

  it('no tokenizer, no text', () => {
    const detokenizer = new Detokenizer(undefined, []);
    expect(detokenizer.push(1)).toEqual({ text: '', stopped: false });
    expect(detokenizer.end()).toEqual({ text: '', stopped: false });
  });
});

describe('stop strings', () => {
  const few = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'é'), maxLength: 24 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'é'), minLength: 1, maxLength: 4 }), {
    minLength: 1,
    maxLength: 4,
  });

  it('the first to complete ends the text, wherever tokens are cut', () => {
    fc.assert(
      fc.property(few, stops, lengths, (text, given, at) => {
        const { text: streamed, stopped } = stream(cut(bytesOf(text), at), given);
        expect(streamed).toBe(stopNaively(text, given));
        expect(stopped).toBe(given.some((stop) => text.includes(stop)));
      }),
      { numRuns: 1000 },
    );
  });

  it('nothing is held back that can’t begin one, and what can is released at the end', () => {
    const pieces = ['Hel', 'lo, wor', 'ld\n', '\nUs', 'er'].map(bytesOf);
    expect(stream(pieces, ['\n\nUser:']).texts).toEqual(['Hel', 'lo, wor', 'ld', '', '', '\n\nUser']);
    expect(stream([...pieces, bytesOf(': hi')], ['\n\nUser:'])).toMatchObject({ text: 'Hello, world', stopped: true });
  });
});
