/**
 * The tiers as the visitor sets them: limits, checks in words, and their form in localStorage. What is read back is hostile
 * (another version, another page of the same origin) and checked field by field; tokens are never written.
 */
import type { RemoteNode, TierSettings } from '../engine/protocol.ts';

export const MIB = 1024 * 1024;
export const MAX_WORKERS = 32;
/** As the engine's own. */
export const MAX_IN_FLIGHT = 32;
export const MAX_MICRO_BATCH_ROWS = 4096;
/** Some blocks of the smallest models: what an experiment calls little. */
export const MIN_KV_BYTES = MIB / 16;
/** Each worker's memory has at most 4 GiB, as any 32-bit WASM. */
export const MAX_KV_BYTES = 16 * 1024 * MIB;
export const MAX_REMOTES = 16;
export const MAX_LATENCY_MS = 1000;

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

export interface SettingsFault {
  readonly field: 'workers' | 'remotes' | 'kvBytes' | 'microBatchRows';
  /** Of `remotes`: which. */
  readonly index?: number;
  readonly message: string;
}

/** @param secure the page came by https: then browsers refuse ws:// to other machines. */
export function checkTierSettings(settings: TierSettings, secure: boolean): readonly SettingsFault[] {
  const faults: SettingsFault[] = [];
  if (settings.mode === 'two-tiers' && settings.workers === 0 && settings.remotes.length === 0)
    faults.push({ field: 'workers', message: 'With no worker here, at least one remote node is needed.' });
  settings.remotes.forEach((remote, index) => {
    const message = checkRemote(remote.url, secure);
    if (message !== null) faults.push({ field: 'remotes', index, message });
  });
  if (!(settings.kvBytes >= MIN_KV_BYTES && settings.kvBytes <= MAX_KV_BYTES))
    faults.push({ field: 'kvBytes', message: `KV memory must be ${MIN_KV_BYTES / MIB} to ${MAX_KV_BYTES / MIB} MiB.` });
  const rows = settings.microBatchRows;
  if (rows !== 'auto' && !(Number.isInteger(rows) && rows >= 1 && rows <= MAX_MICRO_BATCH_ROWS))
    faults.push({ field: 'microBatchRows', message: `Rows must be 1 to ${MAX_MICRO_BATCH_ROWS}, or auto.` });
  return faults;
}

export function checkRemote(address: string, secure: boolean): string | null {
  if (address.trim() === '') return 'An address is needed, like ws://127.0.0.1:7411.';
  const url = URL.parse(address.trim());
  if (url === null || (url.protocol !== 'ws:' && url.protocol !== 'wss:') || url.hostname === '')
    return 'An address begins with ws:// or wss:// and has a host, like ws://127.0.0.1:7411.';
  if (url.username !== '' || url.password !== '') return 'The token belongs in its own field, not in the address.';
  if (secure && url.protocol === 'ws:' && !isLoopback(url.hostname))
    return 'This page came by https, so the browser refuses ws:// to other machines: use wss://.';
  return null;
}

function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.');
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
    kvDtype: oneOf(stored.kvDtype, ['f16', 'f32', 'int8'], base.kvDtype),
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
