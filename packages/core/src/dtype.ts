/**
 * Element types of tensors in memory, on disk and on the wire, and conversions between them. 16-bit floats are held as
 * raw bits in Uint16Array, so that they go to GPUs, sockets and WASM memories unchanged.
 */
export type FloatDtype = 'f32' | 'f16' | 'bf16';
/** What a KV cache stores. int8 has one f32 scale per token and KV head, for K and for V. */
export type KvDtype = 'f32' | 'f16' | 'bf16' | 'int8';

export const FLOAT_BYTES: Readonly<Record<FloatDtype, number>> = { f32: 4, f16: 2, bf16: 2 };

const halfView = new Float16Array(1);
const halfBits = new Uint16Array(halfView.buffer);
const singleView = new Float32Array(1);
const singleBits = new Uint32Array(singleView.buffer);

/** Rounds to nearest even; overflow becomes infinity. */
export function f32ToF16Bits(value: number): number {
  halfView[0] = value;
  return halfBits[0] as number;
}

export function f16BitsToF32(bits: number): number {
  halfBits[0] = bits;
  return halfView[0] as number;
}

/** Rounds to nearest even; NaN stays NaN. */
export function f32ToBf16Bits(value: number): number {
  singleView[0] = value;
  const bits = singleBits[0] as number;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function bf16BitsToF32(bits: number): number {
  singleBits[0] = (bits << 16) >>> 0;
  return singleView[0] as number;
}

/** Widens `source` (raw bits) into `target`, elementwise. */
export function f16ArrayToF32(source: Uint16Array, target: Float32Array): void {
  target.set(new Float16Array(source.buffer, source.byteOffset, source.length));
}

/** Rounds `source` into `target` (raw bits), elementwise. */
export function f32ArrayToF16(source: Float32Array, target: Uint16Array): void {
  new Float16Array(target.buffer, target.byteOffset, target.length).set(source);
}

export function bf16ArrayToF32(source: Uint16Array, target: Float32Array): void {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] as number) << 16;
}
