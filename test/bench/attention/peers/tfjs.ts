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
  const batched = (): Float32Array =>
    tf.tidy(() => Float32Array.from(attend(all.q, all.keys, all.values).dataSync() as Float32Array));
  const output = new Float32Array(form.q.length);
  if (matrices > 1) batched(); // the first runs compile
  let begun = performance.now();
  output.set(batched());
  const batchedMs = performance.now() - begun;

  // One matrix at a time: XNNPACK packs each when it is first multiplied with.
  const split = (tensor: tf.Tensor3D) => tf.split(tensor, matrices, 0) as tf.Tensor3D[];
  const [qs, keys, values] = [split(all.q), split(all.keys), split(all.values)];
  const single = () => {
    for (let i = 0; i < matrices; i++) {
      const one = tf.tidy(() =>
        attend(qs[i] as tf.Tensor3D, keys[i] as tf.Tensor3D, values[i] as tf.Tensor3D).dataSync(),
      );
      output.set(one as Float32Array, i * rows * headDim);
    }
  };
  single();
  begun = performance.now();
  single();
  const singleMs = performance.now() - begun;
  return {
    note: singleMs < batchedMs ? 'product by product (XNNPACK)' : 'batched products',
    async run() {
      if (singleMs < batchedMs) single();
      else output.set(batched());
    },
    output: async () => form.toRows(output),
  };
}
