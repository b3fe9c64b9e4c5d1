/** Which weights a configuration calls for, and their shapes: what a file's tensor table is held against. */
import type { LayerWeight, ModelConfig, WeightName } from '@glinthawk/core';

/** Shapes outermost first; matrices are [outputs, inputs]. In the order of the computation. */
export function weightShapes(config: ModelConfig): Map<WeightName, readonly number[]> {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = config;
  const qRows = config.heads * headDim;
  const kvRows = config.kvHeads * headDim;
  const layer: [LayerWeight, readonly number[]][] = [
    ['attnNorm', [hiddenSize]],
    ['q', [qRows, hiddenSize]],
    ['k', [kvRows, hiddenSize]],
    ['v', [kvRows, hiddenSize]],
    ['o', [hiddenSize, qRows]],
    ['mlpNorm', [hiddenSize]],
    ['gate', [intermediateSize, hiddenSize]],
    ['up', [intermediateSize, hiddenSize]],
    ['down', [hiddenSize, intermediateSize]],
  ];
  if (config.qkvBias) layer.push(['qBias', [qRows]], ['kBias', [kvRows]], ['vBias', [kvRows]]);
  if (config.outputBias) layer.push(['oBias', [hiddenSize]]);
  if (config.mlpBias) {
    layer.push(['gateBias', [intermediateSize]], ['upBias', [intermediateSize]], ['downBias', [hiddenSize]]);
  }
  if (config.qkNorm) layer.push(['qNorm', [headDim]], ['kNorm', [headDim]]);

  const shapes = new Map<WeightName, readonly number[]>([['embed', [vocabSize, hiddenSize]]]);
  for (let i = 0; i < config.layers; i++) {
    for (const [name, shape] of layer) shapes.set(`layers.${i}.${name}`, shape);
  }
  shapes.set('finalNorm', [hiddenSize]);
  if (!config.tiedEmbeddings) shapes.set('head', [vocabSize, hiddenSize]);
  return shapes;
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}
