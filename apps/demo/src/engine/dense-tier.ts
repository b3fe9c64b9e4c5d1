/** Opens the dense tier that the settings ask for; never another one in its place. */
import { InputError, type Logger } from '@glinthawk/core';
import { createWasmDense, createWebGpuDense, type DenseBackend } from '@glinthawk/dense';
import type { Model } from '@glinthawk/model';
import type { OnProgress } from './open-files.ts';
import type { TierSettings } from './protocol.ts';
import { watchedWeights } from './watched-weights.ts';

export interface OpenDenseOptions {
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
}

/** Tests put one in place whose device they can lose. */
export type OpenDense = (model: Model, tiers: TierSettings, options: OpenDenseOptions) => Promise<DenseBackend>;

/** @throws DeviceError, CapacityError, ModelFormatError, UnsupportedError, AbortedError (the signal's reason) */
export const openDenseTier: OpenDense = async (model, tiers, { logger, signal, onProgress }) => {
  const onRead = (done: number, total: number) => onProgress('loading weights', done, total);
  const watched = { config: model.config, weights: watchedWeights(model, { signal, onRead }) };
  const { dense, weightDtype, allowSoftwareGpu: allowSoftware } = tiers;
  switch (dense) {
    case 'webgpu':
      return createWebGpuDense({ allowSoftware }, watched, { weightDtype, logger });
    case 'wasm':
      if (weightDtype === 'f16') {
        throw new InputError('WEIGHTS_DTYPE', 'the WASM dense tier has f32 weights; f16 needs a GPU', {
          hint: 'Choose automatic weights, or WebGPU.',
        });
      }
      return createWasmDense(watched, { logger });
    default:
      throw new InputError('INVALID_TIERS', `there is no dense tier ${String(dense satisfies never)}`);
  }
};

/** Whether a dense tier that is open is the one that other settings ask for. */
export function sameDense(a: TierSettings, b: TierSettings): boolean {
  return a.dense === b.dense && a.weightDtype === b.weightDtype && a.allowSoftwareGpu === b.allowSoftwareGpu;
}
