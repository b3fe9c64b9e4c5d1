/**
 * A second opinion on kernels: the same operations by @tensorflow/tfjs-backend-wasm, in Node and in browsers. f32 throughout, so
 * it says whether a result is right, not to how many digits; for that there are the naive loops in double precision. It
 * shares XNNPACK with the `wasm` dense backend's products, and nothing with any other kernel of ours.
 */
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';

let ready: Promise<void> | null = null;

async function start(): Promise<void> {
  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
  if (typeof document !== 'undefined') {
    const { default: url } = await import('@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url');
    setWasmPaths({
      'tfjs-backend-wasm.wasm': url,
      'tfjs-backend-wasm-simd.wasm': url,
      'tfjs-backend-wasm-threaded-simd.wasm': url,
    });
  }
  await tf.setBackend('wasm');
  await tf.ready();
}

/** Every method leaves no tensor behind. */
export interface TfjsOracle {
  /** x [rows, inputs] · W [outputs, inputs]ᵀ (+ bias [outputs]) → [rows, outputs] */
  linear(x: Float32Array, weights: Float32Array, rows: number, inputs: number, bias?: Float32Array): Float32Array;
  /** [rows, width] → the same, each row summing to 1 */
  softmax(x: Float32Array, rows: number): Float32Array;
  /** [rows, width] → [rows] */
  logSumExp(x: Float32Array, rows: number): Float32Array;
  /** x [rows, width], weight [width] */
  rmsNorm(x: Float32Array, weight: Float32Array, epsilon: number): Float32Array;
  /** silu(gate) · up */
  swiGlu(gate: Float32Array, up: Float32Array): Float32Array;
  /** Rows of a table [count, width] */
  gather(table: Float32Array, width: number, ids: Uint32Array): Float32Array;
  /**
   * One head: q [queries, headDim], k and v [keys, headDim] → [queries, headDim].
   * @param visible whether a query sees a key
   */
  attention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    headDim: number,
    scale: number,
    visible: (query: number, key: number) => boolean,
  ): Float32Array;
}

const values = (compute: () => tf.Tensor): Float32Array =>
  tf.tidy(() => Float32Array.from(compute().dataSync() as Float32Array));

const oracle: TfjsOracle = {
  linear: (x, weights, rows, inputs, bias) =>
    values(() => {
      const product = tf.matMul(
        tf.tensor2d(x, [rows, inputs]),
        tf.tensor2d(weights, [weights.length / inputs, inputs]),
        false,
        true,
      );
      return bias === undefined ? product : tf.add(product, tf.tensor1d(bias));
    }),
  softmax: (x, rows) => values(() => tf.softmax(tf.tensor2d(x, [rows, x.length / rows]))),
  logSumExp: (x, rows) => values(() => tf.logSumExp(tf.tensor2d(x, [rows, x.length / rows]), 1)),
  rmsNorm: (x, weight, epsilon) =>
    values(() => {
      const input = tf.tensor2d(x, [x.length / weight.length, weight.length]);
      const meanSquare = tf.mean(tf.square(input), 1, true);
      return tf.mul(tf.mul(input, tf.rsqrt(tf.add(meanSquare, epsilon))), tf.tensor1d(weight));
    }),
  swiGlu: (gate, up) =>
    values(() => {
      const input = tf.tensor1d(gate);
      return tf.mul(tf.mul(input, tf.sigmoid(input)), tf.tensor1d(up));
    }),
  gather: (table, width, ids) =>
    values(() =>
      tf.gather(tf.tensor2d(table, [table.length / width, width]), tf.tensor1d(Int32Array.from(ids), 'int32')),
    ),
  attention: (q, k, v, headDim, scale, visible) =>
    values(() => {
      const queries = q.length / headDim;
      const keys = k.length / headDim;
      const mask = Float32Array.from({ length: queries * keys }, (_, i) =>
        visible(Math.floor(i / keys), i % keys) ? 0 : -1e9,
      );
      const scores = tf.matMul(tf.tensor2d(q, [queries, headDim]), tf.tensor2d(k, [keys, headDim]), false, true);
      const weights = tf.softmax(tf.add(tf.mul(scores, scale), tf.tensor2d(mask, [queries, keys])));
      return tf.matMul(weights, tf.tensor2d(v, [keys, headDim]));
    }),
};

/** Starts the library on the first call. */
export async function tfjsOracle(): Promise<TfjsOracle> {
  ready ??= start();
  await ready;
  return oracle;
}

/** Tensors alive in the library: 0 between calls. */
export function tfjsTensors(): number {
  return tf.memory().numTensors;
}
