/** A small model, open tiers, a browser and samples, for tests of the page's state. */
import type { Capabilities, ModelReport, Sample, TierReport } from '../engine/protocol.ts';
import { TIERS } from './tier-settings.ts';

export const CAPABILITIES: Capabilities = {
  crossOriginIsolated: true,
  secureContext: true,
  cores: 8,
  deviceMemoryGiB: 8,
  gpus: [],
  gpuUnavailable: 'navigator.gpu is missing',
  kernels: { build: 'relaxed', relaxedSimd: true, sharedMemory: true },
};

export const MODEL: ModelReport = {
  description: {
    name: 'tale-1m',
    format: 'huggingface',
    family: 'llama',
    fingerprint: '00',
    parameters: 1_443_456,
    weightBytes: 2_886_912,
    tensorKinds: [],
    vocabSize: 2048,
    hiddenSize: 128,
    intermediateSize: 384,
    layers: 6,
    heads: 4,
    kvHeads: 2,
    headDim: 32,
    contextTokens: 512,
    tiedEmbeddings: true,
    features: [],
    rope: { theta: 10_000, scaling: { type: 'none' } },
    bosTokenId: 0,
    eosTokenIds: [1],
    tokenizer: null,
    chatTemplate: true,
    generationDefaults: { temperature: 0.7, topP: 0.9 },
    kvBytesPerToken: { f32: 3072, f16: 1536, bf16: 1536, int8: 864 },
    notes: [],
  },
  wasmWeightBytes: 6_800_000,
  gpuWeightBytes: 2_886_912,
  hasChatTemplate: true,
};

export const TIERS_OPEN: TierReport = {
  settings: { ...TIERS, workers: 2 },
  dense: { kind: 'wasm', description: 'tfjs-wasm', weightDtype: 'f32', weightBytes: 6_800_000 },
  nodes: [
    { name: 'worker 1', kind: 'worker' },
    { name: 'worker 2', kind: 'worker' },
  ],
  contextTokens: 512,
  microBatchRows: 64,
  kvCapacityBytes: TIERS.kvBytes,
  kvCapacityTokens: 43_690,
  remarks: [],
};

export function sampleAt(atMs: number, stats: Partial<Sample['stats']>, bytes = 0): Sample {
  const none = {
    waiting: 0,
    stranded: { sequences: 0, tokens: 0 },
    running: 0,
    finished: 0,
    failed: 0,
    promptTokens: 0,
    prefixHitTokens: 0,
    generatedTokens: 0,
    preemptions: 0,
    nodesLost: 0,
    steps: 0,
    rows: 0,
    inFlight: 1,
    microBatchRows: 64,
    usedBlocks: 0,
    cachedBlocks: 0,
    totalBlocks: 0,
    kvBytes: 0,
    kvCapacityBytes: 0,
    kvCapacityTokens: 0,
    wallMs: 0,
    denseBusyMs: 0,
    attentionBusyMs: 0,
    underWaySinceMs: null,
    headMs: 0,
    samplingMs: 0,
    denseStageMs: 0,
    attentionStageMs: 0,
    bytesSent: 0,
    bytesReceived: 0,
    nodes: [],
  };
  return {
    atMs,
    epoch: 'an engine',
    completeUntilMs: atMs,
    stats: { ...none, ...stats },
    tierBytesOut: bytes,
    tierBytesIn: bytes / 2,
    spans: new Float64Array(0),
    droppedSpans: 0,
    residents: [],
    nodes: [],
  };
}
