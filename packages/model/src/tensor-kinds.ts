/**
 * How numbers are stored in files, and their exact widening to f32. A kind stores blocks: one element for plain floats, 32 for
 * ggml's quantised ones (layouts: ggml's `ggml-common.h`, `block_q8_0` and so on). Little-endian throughout.
 */
import { bf16ArrayToF32, f16ArrayToF32, f16BitsToF32 } from '@glinthawk/core';

export interface TensorKind {
  /** The file formats' own word. */
  readonly name: string;
  readonly blockElements: number;
  readonly blockBytes: number;
  /** Decodes whole blocks; `bytes` starts at a multiple of 4 in its buffer. Fills `target` exactly. */
  readonly decode: (bytes: Uint8Array<ArrayBuffer>, target: Float32Array) => void;
}

export const F32: TensorKind = {
  name: 'F32',
  blockElements: 1,
  blockBytes: 4,
  decode: (bytes, target) => target.set(new Float32Array(bytes.buffer, bytes.byteOffset, target.length)),
};

export const F16: TensorKind = {
  name: 'F16',
  blockElements: 1,
  blockBytes: 2,
  decode: (bytes, target) => f16ArrayToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, target.length), target),
};

export const BF16: TensorKind = {
  name: 'BF16',
  blockElements: 1,
  blockBytes: 2,
  decode: (bytes, target) => bf16ArrayToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, target.length), target),
};

const QUANT_BLOCK = 32;

function halfAt(bytes: Uint8Array, at: number): number {
  return f16BitsToF32((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
}

/** {f16 scale, 32 × i8}: scale · q. */
export const Q8_0: TensorKind = {
  name: 'Q8_0',
  blockElements: QUANT_BLOCK,
  blockBytes: 34,
  decode: (bytes, target) => {
    const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0, out = 0; out < target.length; at += 34, out += QUANT_BLOCK) {
      const scale = halfAt(bytes, at);
      for (let i = 0; i < QUANT_BLOCK; i++) target[out + i] = scale * (signed[at + 2 + i] as number);
    }
  },
};

/** {f16 scale, 16 bytes of nibbles}: scale · (q − 8); low nibbles are elements 0 to 15, high ones 16 to 31. */
export const Q4_0: TensorKind = {
  name: 'Q4_0',
  blockElements: QUANT_BLOCK,
  blockBytes: 18,
  decode: (bytes, target) => {
    for (let at = 0, out = 0; out < target.length; at += 18, out += QUANT_BLOCK) {
      const scale = halfAt(bytes, at);
      for (let i = 0; i < QUANT_BLOCK / 2; i++) {
        const pair = bytes[at + 2 + i] as number;
        target[out + i] = scale * ((pair & 15) - 8);
        target[out + i + QUANT_BLOCK / 2] = scale * ((pair >> 4) - 8);
      }
    }
  },
};

/** {f16 scale, f16 minimum, 16 bytes of nibbles}: scale · q + minimum, rounded to f32 after each operation as ggml does. */
export const Q4_1: TensorKind = {
  name: 'Q4_1',
  blockElements: QUANT_BLOCK,
  blockBytes: 20,
  decode: (bytes, target) => {
    for (let at = 0, out = 0; out < target.length; at += 20, out += QUANT_BLOCK) {
      const scale = halfAt(bytes, at);
      const minimum = halfAt(bytes, at + 2);
      for (let i = 0; i < QUANT_BLOCK / 2; i++) {
        const pair = bytes[at + 4 + i] as number;
        // scale · q has at most 15 significant bits, so the product is exact and the assignment rounds the sum once.
        target[out + i] = scale * (pair & 15) + minimum;
        target[out + i + QUANT_BLOCK / 2] = scale * (pair >> 4) + minimum;
      }
    }
  },
};

/** Bytes of `elements` numbers, or undefined when they don't fill whole blocks. */
export function storedBytes(kind: TensorKind, elements: number): number | undefined {
  return elements % kind.blockElements === 0 ? (elements / kind.blockElements) * kind.blockBytes : undefined;
}
