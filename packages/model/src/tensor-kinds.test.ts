import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BF16, F16, F32, Q4_0, Q4_1, Q8_0, type TensorKind } from './tensor-kinds.ts';

/** An f16 from its fields (IEEE 754-2008, 3.6), without any of the package's conversions. */
function half(low: number, high: number): number {
  const sign = high & 0x80 ? -1 : 1;
  const exponent = (high >> 2) & 31;
  const fraction = ((high & 3) << 8) | low;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** One element of a block, straight from ggml's block definitions. */
const references: readonly [TensorKind, (block: Uint8Array, i: number) => number][] = [
  [F32, (block) => new DataView(block.buffer, block.byteOffset).getFloat32(0, true)],
  [F16, (block) => half(block[0] ?? 0, block[1] ?? 0)],
  [BF16, (block) => new DataView(Uint8Array.of(0, 0, block[0] ?? 0, block[1] ?? 0).buffer).getFloat32(0, true)],
  [Q8_0, (block, i) => half(block[0] ?? 0, block[1] ?? 0) * (((block[2 + i] ?? 0) ^ 0x80) - 0x80)],
  [Q4_0, (block, i) => half(block[0] ?? 0, block[1] ?? 0) * (nibble(block, 2, i) - 8)],
  [
    Q4_1,
    (block, i) =>
      Math.fround(
        Math.fround(half(block[0] ?? 0, block[1] ?? 0) * nibble(block, 4, i)) + half(block[2] ?? 0, block[3] ?? 0),
      ),
  ],
];

function nibble(block: Uint8Array, start: number, i: number): number {
  const byte = block[start + (i % 16)] ?? 0;
  return i < 16 ? byte % 16 : Math.floor(byte / 16);
}

describe.each(references)('$name', (kind, reference) => {
  it('decodes as its definition says, any bits', () => {
    const blocks = fc.integer({ min: 1, max: 5 });
    const property = blocks.chain((count) =>
      fc.uint8Array({ minLength: count * kind.blockBytes, maxLength: count * kind.blockBytes }),
    );
    fc.assert(
      fc.property(property, (random) => {
        const bytes = new Uint8Array(random);
        const target = new Float32Array((bytes.length / kind.blockBytes) * kind.blockElements);
        kind.decode(bytes, target);
        for (let i = 0; i < target.length; i++) {
          const block = Math.floor(i / kind.blockElements);
          const slice = bytes.slice(block * kind.blockBytes, (block + 1) * kind.blockBytes);
          const expected = Math.fround(reference(slice, i % kind.blockElements));
          // NaN's payload is no number's business; zero's sign is compared by value.
          expect(Object.is(target[i], expected) || target[i] === expected).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});
