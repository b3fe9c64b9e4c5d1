import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineError } from './line-error.ts';
import { splitLines } from './line-splitter.ts';

async function split(bytes: Uint8Array, cut = 7, cap?: number): Promise<[number, string][]> {
  async function* chunks() {
    for (let i = 0; i < bytes.length; i += cut) yield bytes.subarray(i, i + cut);
  }
  const found: [number, string][] = [];
  for await (const { line, text } of splitLines(chunks(), cap)) {
    found.push([line, text instanceof LineError ? text.message : text]);
  }
  return found;
}

const bytes = (text: string) => new TextEncoder().encode(text);

describe('splitLines', () => {
  it('counts blank lines and skips them', async () => {
    expect(await split(bytes('\n{"a":1}\n \t\r\n\n{"b":2}'))).toEqual([
      [2, '{"a":1}'],
      [5, '{"b":2}'],
    ]);
  });

  it('takes LF and CRLF, and drops a BOM', async () => {
    expect(await split(bytes('\ufeffone\r\ntwo\r\n'))).toEqual([
      [1, 'one'],
      [2, 'two'],
    ]);
  });

  it('keeps line separators of Unicode inside a line', async () => {
    expect(await split(bytes('a\u2028b\u0085c\n'))).toEqual([[1, 'a\u2028b\u0085c']]);
  });

  it('passes over a line beyond the cap, and goes on', async () => {
    expect(await split(bytes(`${'x'.repeat(100)}\nok\n${'y'.repeat(10)}`), 7, 10)).toEqual([
      [1, 'line 1: is longer than 10 bytes'],
      [2, 'ok'],
      [3, 'yyyyyyyyyy'],
    ]);
  });

  it('reports a line beyond the cap that the file ends with', async () => {
    expect(await split(bytes(`ok\n${'x'.repeat(100)}`), 7, 10)).toEqual([
      [1, 'ok'],
      [2, 'line 2: is longer than 10 bytes'],
    ]);
  });

  it('names bad UTF-8 by its line', async () => {
    expect(await split(Uint8Array.of(0x61, 0x0a, 0xff, 0xc0, 0x0a, 0x62))).toEqual([
      [1, 'a'],
      [2, 'line 2: is not valid UTF-8'],
      [3, 'b'],
    ]);
    expect((await split(Uint8Array.of(0xff, 0xfe, 0x7b, 0x00)))[0]).toEqual([
      1,
      'line 1: is UTF-16; save the file as UTF-8',
    ]);
  });

  it('finds the same lines however the bytes are cut', async () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'é', '\u{1f600}', '\n', '\r\n', ' '), maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(text, fc.integer({ min: 1, max: 20 }), async (whole, cut) => {
        expect(await split(bytes(whole), cut)).toEqual(await split(bytes(whole), 1_000));
      }),
      { numRuns: 200 },
    );
  });
});
