/**
 * The tiers as the visitor sets them: what this page may reach, and their form in localStorage. What is read back is hostile
 * (another version, another page of the same origin) and checked field by field; tokens are never written.
 */
import { isLoopback } from '@glinthawk/wire';
import type { RemoteNode, TierSettings } from '../engine/protocol.ts';
import {
  MAX_IN_FLIGHT,
  MAX_KV_BYTES,
  MAX_MICRO_BATCH_ROWS,
  MAX_REMOTES,
  MAX_WORKERS,
  MIB,
  MIN_KV_BYTES,
} from '../limits.ts';
import { type TierFault, tierFaults } from '../tier-faults.ts';

/** Before this browser was looked at, and enough KV for the example. */
export const TIERS: TierSettings = {
  mode: 'two-tiers',
  dense: 'wasm',
  allowSoftwareGpu: false,
  weightDtype: 'auto',
  workers: 1,
  remotes: [],
  kvDtype: 'f16',
  kvBytes: 64 * MIB,
  inFlight: 'auto',
  microBatchRows: 'auto',
  latencyMs: 0,
};

/** @param secure the page came by https: then browsers refuse ws:// to other machines. */
export function checkTierSettings(settings: TierSettings, secure: boolean): readonly TierFault[] {
  const faults = tierFaults(settings);
  if (!secure || settings.mode === 'one-tier') return faults;
  return [
    ...faults,
    ...settings.remotes.flatMap(({ url }, index): readonly TierFault[] =>
      isRefusedByHttps(url)
        ? [
            {
              field: 'remotes',
              index,
              message: 'This page came by https, so the browser refuses ws:// to other machines: use wss://.',
            },
          ]
        : [],
    ),
  ];
}

function isRefusedByHttps(address: string): boolean {
  const url = URL.parse(address.trim());
  return url?.protocol === 'ws:' && !isLoopback(url.hostname);
}

/** As JSON without tokens. */
export function storeTierSettings(settings: TierSettings): string {
  return JSON.stringify({ ...settings, remotes: settings.remotes.map(({ url }) => ({ url })) });
}

/** What of `json` is valid, over `base`. */
export function restoreTierSettings(base: TierSettings, json: string | null): TierSettings {
  const stored = json === null ? null : parseObject(json);
  if (stored === null) return base;
  return {
    mode: oneOf(stored.mode, ['one-tier', 'two-tiers'], base.mode),
    dense: oneOf(stored.dense, ['wasm', 'webgpu'], base.dense),
    allowSoftwareGpu: typeof stored.allowSoftwareGpu === 'boolean' ? stored.allowSoftwareGpu : base.allowSoftwareGpu,
    weightDtype: oneOf(stored.weightDtype, ['auto', 'f32', 'f16'], base.weightDtype),
    workers: integer(stored.workers, 0, MAX_WORKERS, base.workers),
    remotes: remotesOf(stored.remotes),
    kvDtype: oneOf(stored.kvDtype, ['f16', 'bf16', 'f32', 'int8'], base.kvDtype),
    kvBytes: integer(stored.kvBytes, MIN_KV_BYTES, MAX_KV_BYTES, base.kvBytes),
    inFlight: stored.inFlight === 'auto' ? 'auto' : integer(stored.inFlight, 1, MAX_IN_FLIGHT, base.inFlight),
    microBatchRows:
      stored.microBatchRows === 'auto'
        ? 'auto'
        : integer(stored.microBatchRows, 1, MAX_MICRO_BATCH_ROWS, base.microBatchRows),
    // A delay is an experiment of one visit, not a preference.
    latencyMs: 0,
  };
}

function remotesOf(value: unknown): readonly RemoteNode[] {
  if (!Array.isArray(value)) return [];
  const urls = value.slice(0, MAX_REMOTES).map((remote: unknown) => (isObject(remote) ? remote.url : null));
  return urls.filter((url) => typeof url === 'string' && url.length <= 300).map((url) => ({ url: String(url) }));
}

export function parseObject(json: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(json);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function oneOf<T extends string>(value: unknown, allowed: readonly T[], otherwise: T): T {
  return allowed.find((candidate) => candidate === value) ?? otherwise;
}

function integer<T>(value: unknown, low: number, high: number, otherwise: T): number | T {
  return typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high ? value : otherwise;
}
