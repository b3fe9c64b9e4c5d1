/** A model's weights as they are read: how far that is, and an end to it when nobody wants them any more. */
import type { RowRange, WeightInfo, WeightName, WeightSource } from '@glinthawk/core';
import { type Model, weightShapes } from '@glinthawk/model';

/** @param onRead bytes as stored, read so far, and of all */
export function watchedWeights(
  model: Model,
  options: { readonly signal: AbortSignal; readonly onRead: (done: number, total: number) => void },
): WeightSource {
  const { weights } = model;
  let total = 0;
  for (const name of weightShapes(model.config).keys()) total += weights.info(name).storedBytes;
  let done = 0;
  return {
    has: (name: WeightName) => weights.has(name),
    info: (name: WeightName): WeightInfo => weights.info(name),
    async read(name: WeightName, rows?: RowRange): Promise<Float32Array> {
      options.signal.throwIfAborted();
      const values = await weights.read(name, rows);
      options.signal.throwIfAborted();
      const { storedBytes, shape } = weights.info(name);
      const share = rows === undefined ? 1 : (rows.end - rows.start) / (shape[0] ?? 1);
      done = Math.min(total, done + storedBytes * share);
      options.onRead(Math.round(done), total);
      return values;
    },
    close: () => weights.close(),
  };
}
