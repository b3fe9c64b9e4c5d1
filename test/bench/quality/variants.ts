/**
 * What is compared: how keys and values are stored, and in what form rows travel. KV dtypes that exist run on the kernels; int4, which
 * doesn't, is rounded before it goes into a cache in f32.
 */
import { attentionKernelInfo, type Int8Kernel } from '@glinthawk/attention';
import type { KvDtype, RowDtype } from '@glinthawk/core';
import { type Rounding, rotated, toInt4, toInt8 } from './rounding.ts';

/** Tokens whose keys share a scale in each channel; the latest ones stay as they are until there are so many. */
export const CHANNEL_GROUP = 32;

export interface Variant {
  readonly name: string;
  readonly kvDtype: KvDtype;
  /** Which kernel reads int8 KV. */
  readonly int8?: Int8Kernel;
  /** q, k and v out, o back. */
  readonly wire: RowDtype;
  /** Before they are stored. `channels`: keys by channel over CHANNEL_GROUP tokens. */
  readonly keys?: Rounding | 'channels';
  readonly values?: Rounding;
  /** Of a number of K and V together as stored, scales included. */
  readonly bits: number;
}

/** Scale and least value of a group, two f16. */
const GROUP_BITS = 32;

/** @param headDim a power of two, for rotations */
export function variantsFor(headDim: number): readonly Variant[] {
  const powerOfTwo = (headDim & (headDim - 1)) === 0;
  const { int8: fastest } = attentionKernelInfo();
  const wholeBits = 4 + GROUP_BITS / headDim;
  const groupedBits = 4 + GROUP_BITS / Math.min(32, headDim);
  const int8Bits = 8 + 32 / headDim;
  const whole = toInt4(headDim);
  const grouped = toInt4(32);
  const f32 = { kvDtype: 'f32', wire: 'f32' } as const;
  const variants: Variant[] = [
    { name: 'bf16', ...f32, kvDtype: 'bf16', bits: 16 },
    { name: 'f16', ...f32, kvDtype: 'f16', bits: 16 },
    { name: 'int8-pairs', ...f32, kvDtype: 'int8', int8: 'pairs', bits: int8Bits },
  ];
  if (fastest === 'dot') variants.push({ name: 'int8-dot', ...f32, kvDtype: 'int8', int8: 'dot', bits: int8Bits });
  variants.push(
    { name: 'wire-f16', ...f32, wire: 'f16', bits: 32 },
    { name: 'wire-int8', ...f32, wire: 'int8', bits: 32 },
    { name: 'wire-int8+int8', kvDtype: 'int8', int8: fastest, wire: 'int8', bits: int8Bits },
    { name: 'int4-token', ...f32, keys: whole, values: whole, bits: wholeBits },
    { name: 'int4-group32', ...f32, keys: grouped, values: grouped, bits: groupedBits },
    {
      name: 'int4-kivi',
      ...f32,
      keys: 'channels',
      values: whole,
      bits: (4 + GROUP_BITS / CHANNEL_GROUP + wholeBits) / 2,
    },
  );
  if (powerOfTwo) {
    variants.push(
      { name: 'int4-token-rotated', ...f32, keys: rotated(whole), values: rotated(whole), bits: wholeBits },
      { name: 'int4-group32-rotated', ...f32, keys: rotated(grouped), values: rotated(grouped), bits: groupedBits },
      {
        name: 'int4-kivi-rotated',
        ...f32,
        keys: 'channels',
        values: rotated(grouped),
        bits: (4 + GROUP_BITS / CHANNEL_GROUP + groupedBits) / 2,
      },
      { name: 'k8-v4', ...f32, keys: toInt8, values: rotated(grouped), bits: (int8Bits + groupedBits) / 2 },
      {
        name: 'k4-v8',
        ...f32,
        keys: 'channels',
        values: toInt8,
        bits: (4 + GROUP_BITS / CHANNEL_GROUP + int8Bits) / 2,
      },
    );
  }
  return variants;
}
