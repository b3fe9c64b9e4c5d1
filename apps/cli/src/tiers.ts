/** Chooses and opens both tiers for a model on this machine, and can say why it chose as it did. */
import { availableParallelism } from 'node:os';
import type { AttentionSource } from '@glinthawk/attention';
import { localAttentionSource } from '@glinthawk/attention';
import { remoteSource } from '@glinthawk/attention/node';
import { DeviceError, InputError, type Logger, type RowDtype } from '@glinthawk/core';
import {
  createWasmDense,
  createWebGpuDense,
  type DenseBackend,
  type GpuAdapterReport,
  hardwareAdapter,
} from '@glinthawk/dense';
import { describeModel, type Model } from '@glinthawk/model';
import type { AttentionPlace } from './arguments.ts';
import { probeAdaptersApart } from './probe-adapters.ts';

export type DenseFlag = 'auto' | 'webgpu' | 'wasm';
export type WeightsFlag = 'auto' | 'f32' | 'f16';

export interface DenseChoice {
  readonly kind: 'webgpu' | 'wasm';
  readonly adapter: GpuAdapterReport | null;
  readonly reason: string;
}

/** What `--dense` means on this machine. @throws DeviceError when webgpu is asked for and there is no adapter for it */
export async function chooseDense(dense: DenseFlag, allowSoftware: boolean): Promise<DenseChoice> {
  if (dense === 'wasm') return { kind: 'wasm', adapter: null, reason: 'asked for' };
  const probe = await probeAdaptersApart();
  const hardware = hardwareAdapter(probe);
  const software = probe.adapters.find((adapter) => adapter.software) ?? null;
  const adapter = hardware ?? (allowSoftware ? software : null);
  if (adapter !== null) {
    return {
      kind: 'webgpu',
      adapter,
      reason: adapter.software ? 'a software adapter, as allowed' : 'a hardware adapter',
    };
  }
  const why =
    software === null
      ? (probe.unavailable ?? 'no WebGPU adapter')
      : `the only WebGPU adapter is software (${software.description}), which is slower than wasm`;
  if (dense === 'auto') return { kind: 'wasm', adapter: null, reason: why };
  throw new DeviceError('NO_ADAPTER', `--dense webgpu: ${why}`, {
    hint:
      software === null
        ? 'use --dense wasm; glinthawk doctor says what is missing'
        : 'use --dense wasm, or add --allow-software-gpu',
  });
}

export async function openDense(
  choice: DenseChoice,
  model: Model,
  options: { readonly weights: WeightsFlag; readonly allowSoftware: boolean; readonly logger: Logger },
): Promise<DenseBackend> {
  const { weights, allowSoftware } = options;
  // What it says of itself when all is well is in DenseInfo, which is shown.
  const logger = { ...options.logger, info: options.logger.debug };
  switch (choice.kind) {
    case 'webgpu':
      return createWebGpuDense({ allowSoftware }, model, { weightDtype: weights, logger });
    case 'wasm':
      requireWasmWeights(weights, choice);
      return createWasmDense(model, { logger });
    default:
      return choice.kind satisfies never;
  }
}

/** @throws InputError */
export function requireWasmWeights(weights: WeightsFlag, choice: DenseChoice): void {
  if (choice.kind !== 'wasm' || weights !== 'f16') return;
  throw new InputError(
    'WEIGHTS_DTYPE',
    `--weights f16 needs a GPU; the wasm backend has f32 weights (${choice.reason})`,
    {
      hint: 'leave --weights out',
    },
  );
}

/** At most this share of the free memory goes to KV: the rest is activations, tokenizer, the system's. */
const KV_SHARE_OF_FREE_MEMORY = 0.5;
const LEAST_KV_BYTES = 64 * 2 ** 20;

/** KV memory when nobody says how much: half of what the weights will leave free. */
export function defaultKvMemory(model: Model, dense: DenseChoice['kind']): number {
  const weightBytes = dense === 'wasm' ? 4 * describeModel(model).parameters : 0;
  const free = process.availableMemory() - weightBytes;
  return Math.max(LEAST_KV_BYTES, Math.floor(free * KV_SHARE_OF_FREE_MEMORY));
}

export interface AttentionFlags {
  readonly places: readonly AttentionPlace[];
  readonly kvMemory: number;
  readonly wire: RowDtype;
  readonly token: string | undefined;
  /** Certificates (PEM) to trust for `tls://` instead of the system's. */
  readonly tlsCa: Buffer | undefined;
  readonly logger: Logger;
}

/** @throws InputError for a bad address */
export function attentionSources(flags: AttentionFlags): AttentionSource[] {
  const { kvMemory, token, wire, tlsCa, logger } = flags;
  return flags.places.flatMap((place): AttentionSource[] => {
    switch (place.type) {
      case 'local':
        return [
          localAttentionSource({ workers: place.workers ?? availableParallelism(), memoryBytes: kvMemory, logger }),
        ];
      case 'remote':
        return [remoteSource(place.url, { token, wireDtype: wire, ...(tlsCa && { tls: { ca: tlsCa } }), logger })];
      case 'listen':
        return []; // These come by themselves.
      default:
        return place satisfies never;
    }
  });
}
