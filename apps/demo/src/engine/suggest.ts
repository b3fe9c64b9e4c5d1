/** Settings that suit a browser and a model: what the page proposes before anybody chose. Pure. */
import type { Capabilities, ModelReport, TierSettings } from './protocol.ts';

/** Where a browser doesn't tell its memory: Firefox and Safari, on machines of any size. */
const ASSUMED_MEMORY_GIB = 4;
/** Of the memory: the rest is the system's, the browser's, and other tabs'. */
const KV_SHARE = 1 / 8;
const MIN_KV_BYTES = 64 * 2 ** 20;
/** A worker's memory ends at 4 GiB, staging included; browsers give a tab less than they have. */
const MAX_KV_BYTES_PER_WORKER = 1 * 2 ** 30;
/** More attention workers than this wait for memory, not for each other. */
const MAX_SUGGESTED_WORKERS = 8;
/** Sequences of full length that a page may reasonably want at once: more KV than that lies idle. */
const USEFUL_SEQUENCES = 64;

export function suggestSettings(capabilities: Capabilities, model: ModelReport | null): TierSettings {
  const hardware = capabilities.gpus.some(({ software }) => !software);
  const dense = hardware ? 'webgpu' : 'wasm';
  const workers = suggestedWorkers(capabilities, dense);
  return {
    mode: 'two-tiers',
    dense,
    allowSoftwareGpu: false,
    weightDtype: 'auto',
    workers,
    remotes: [],
    kvDtype: 'f16',
    kvBytes: suggestedKvBytes(capabilities, model, dense, workers),
    inFlight: 'auto',
    microBatchRows: 'auto',
    latencyMs: 0,
  };
}

/** On a GPU all cores but the engine's are free for attention; on the CPU the dense tier wants most of them. */
function suggestedWorkers({ cores }: Capabilities, dense: TierSettings['dense']): number {
  const free = dense === 'webgpu' ? cores - 1 : Math.floor(cores / 2);
  return Math.min(MAX_SUGGESTED_WORKERS, Math.max(1, free));
}

function suggestedKvBytes(
  { deviceMemoryGiB }: Capabilities,
  model: ModelReport | null,
  dense: TierSettings['dense'],
  workers: number,
): number {
  const memory = (deviceMemoryGiB ?? ASSUMED_MEMORY_GIB) * 2 ** 30;
  const weights = dense === 'wasm' ? (model?.wasmWeightBytes ?? 0) : 0;
  const affordable = Math.min((memory - weights) * KV_SHARE, workers * MAX_KV_BYTES_PER_WORKER);
  const { kvBytesPerToken, contextTokens } = model?.description ?? {};
  const useful =
    kvBytesPerToken === undefined || contextTokens === undefined
      ? Number.POSITIVE_INFINITY
      : USEFUL_SEQUENCES * contextTokens * kvBytesPerToken.f16;
  const least = Math.max(MIN_KV_BYTES, workers * (MIN_KV_BYTES / 4));
  return Math.max(least, Math.floor(Math.min(affordable, useful) / 2 ** 20) * 2 ** 20);
}
