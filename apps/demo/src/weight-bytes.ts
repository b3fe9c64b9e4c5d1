/** What a model's weights take once they are loaded, by dense tier: for the engine's report and for a look before a download. */
import type { Model } from '@glinthawk/model';

/** f32 throughout, and the embedding table twice where the head is tied to it: the head's panels are a copy. */
export function wasmWeightBytes({ config }: Pick<Model, 'config'>, parameters: number): number {
  return 4 * (parameters + (config.tiedEmbeddings ? config.vocabSize * config.hiddenSize : 0));
}

/** As f16. */
export function gpuWeightBytes(parameters: number): number {
  return 2 * parameters;
}
