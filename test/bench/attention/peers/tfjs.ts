/**
 * TensorFlow.js' WASM backend on the work, one thread a process (its own threads don't start in Node): batched products as they
 * come, or product by product, which it passes on to XNNPACK; whichever turns out faster here.
 */
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-wasm';
import type { WorkData } from '../work.ts';
import { matmulForm } from './matmul-form.ts';
import type { Implementation, Task } from './task.ts';

export async function tfjsMatmul({ work, layers }: Task, data: WorkData): Promise<Implementation> {
  tf.enableProdMode();
  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
  await tf.setBackend('wasm');
  await tf.ready();
  const form = matmulForm(work, data, layers);
  const { matrices, rows } = form;
  const { headDim, context } = work;
  const mask = form.mask === null ? null : tf.tensor3d(form.mask, [1, rows, context]);
  const all = {
    q: tf.tensor3d(form.q, [matrices, rows, headDim]),
    keys: tf.tensor3d(form.keys, [matrices, headDim, context]),
    values: tf.tensor3d(form.values, [matrices, context, headDim]),
  };
  const attend = (q: tf.Tensor3D, keys: tf.Tensor3D, values: tf.Tensor3D): tf.Tensor3D => {
    const scores = tf.matMul(q, keys);
    return tf.matMul(tf.softmax(mask === null ? scores : tf.add(scores, mask)), values);
  };
  const output = new Float32Array(form.q.length);
  const split = (tensor: tf.Tensor3D) => tf.split(tensor, matrices, 0) as tf.Tensor3D[];
  const [qs, keys, values] = [split(all.q), split(all.keys), split(all.values)];
  /** One matrix at a time: XNNPACK packs each when it is first multiplied with, and never again. */
  const single = (count: number) => {
    for (let i = 0; i < count; i++) {
      const one = tf.tidy(() =>
        attend(qs[i] as tf.Tensor3D, keys[i] as tf.Tensor3D, values[i] as tf.Tensor3D).dataSync(),
      );
      output.set(one as Float32Array, i * rows * headDim);
    }
  };
  const batched = (part: typeof all) =>
    output.set(tf.tidy(() => attend(part.q, part.keys, part.values).dataSync()) as Float32Array);
  const first = (tensor: tf.Tensor3D) => tf.slice(tensor, [0, 0, 0], [TRIED_MATRICES, -1, -1]);
  const singly =
    matrices < TRIED_MATRICES ||
    (() => {
      const few = { q: first(all.q), keys: first(all.keys), values: first(all.values) };
      return fastest(() => single(TRIED_MATRICES)) <= fastest(() => batched(few));
    })();
  return {
    note: singly ? 'product by product, KV packed for XNNPACK beforehand' : 'batched products',
    run: async () => (singly ? single(matrices) : batched(all)),
    output: async () => form.toRows(output),
  };
}

/** Batched products are up to twenty times slower: all matrices would take minutes to find that out. */
const TRIED_MATRICES = 2;
const TRIES = 5;

/** Milliseconds; of several tries, because the first ones compile. */
function fastest(run: () => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < TRIES; i++) {
    const begun = performance.now();
    run();
    least = Math.min(least, performance.now() - begun);
  }
  return least;
}
