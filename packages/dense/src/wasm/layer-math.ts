/**
 * The parts of a layer between its matrix products, in plain TypeScript over rows: f32 in and out, sums in double precision.
 * A row's result depends on that row alone. The worker chooses which rows and columns; nothing here knows of workers.
 */
import { exponential } from './exponential.ts';

/** RMSNorm (arXiv 1910.07467) of `count` numbers: target = source / rms(source) · weight. */
export function rmsNorm(
  source: Float32Array,
  sourceAt: number,
  weight: Float32Array,
  epsilon: number,
  target: Float32Array,
  targetAt: number,
): void {
  const count = weight.length;
  let squares = 0;
  for (let i = 0; i < count; i++) {
    const value = source[sourceAt + i] as number;
    squares += value * value;
  }
  const scale = 1 / Math.sqrt(squares / count + epsilon);
  for (let i = 0; i < count; i++) {
    target[targetAt + i] = (source[sourceAt + i] as number) * scale * (weight[i] as number);
  }
}

/** Turns one head by its row's angles (half-split layout). `rope` is [rows, cos | sin]; source and target may be the same. */
export function rotateHead(
  source: Float32Array,
  sourceAt: number,
  rope: Float32Array,
  ropeAt: number,
  headDim: number,
  target: Float32Array,
  targetAt: number,
): void {
  const half = headDim / 2;
  for (let i = 0; i < half; i++) {
    const cos = rope[ropeAt + i] as number;
    const sin = rope[ropeAt + half + i] as number;
    const low = source[sourceAt + i] as number;
    const high = source[sourceAt + half + i] as number;
    target[targetAt + i] = low * cos - high * sin;
    target[targetAt + half + i] = high * cos + low * sin;
  }
}

/** silu(gate) · up for `columns` neighbouring columns: gateUp [rows, gate columns | up columns] → target[row, first …]. */
export function swiGlu(
  gateUp: Float32Array,
  rows: number,
  columns: number,
  target: Float32Array,
  targetWidth: number,
  first: number,
): void {
  for (let row = 0; row < rows; row++) {
    const gateAt = row * 2 * columns;
    const upAt = gateAt + columns;
    const targetAt = row * targetWidth + first;
    for (let i = 0; i < columns; i++) {
      const gate = gateUp[gateAt + i] as number;
      target[targetAt + i] = (gate / (1 + exponential(-gate))) * (gateUp[upAt + i] as number);
    }
  }
}

/** target[row, first + i] += source[row, i]: a product's columns onto the residual stream. */
export function addColumns(
  source: Float32Array,
  rows: number,
  columns: number,
  target: Float32Array,
  targetWidth: number,
  first: number,
): void {
  for (let row = 0; row < rows; row++) {
    const sourceAt = row * columns;
    const targetAt = row * targetWidth + first;
    for (let i = 0; i < columns; i++) {
      target[targetAt + i] = (target[targetAt + i] as number) + (source[sourceAt + i] as number);
    }
  }
}
