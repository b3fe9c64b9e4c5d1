/**
 * What is wrong with tier settings, in words and by field: the form shows it, and the engine's worker refuses by it. It knows
 * nothing of models; whether a model fits is found out by opening it.
 */
import type { TierSettings } from './engine/protocol.ts';
import {
  MAX_IN_FLIGHT,
  MAX_KV_BYTES,
  MAX_LATENCY_MS,
  MAX_MICRO_BATCH_ROWS,
  MAX_REMOTES,
  MAX_WORKERS,
  MIB,
  MIN_KV_BYTES,
} from './limits.ts';

export interface TierFault {
  readonly field: 'workers' | 'remotes' | 'kvBytes' | 'inFlight' | 'microBatchRows' | 'latencyMs';
  /** Of `remotes`: which. */
  readonly index?: number;
  readonly message: string;
}

export function tierFaults(settings: TierSettings): readonly TierFault[] {
  const { kvBytes, inFlight, microBatchRows, latencyMs } = settings;
  const faults: TierFault[] = settings.mode === 'two-tiers' ? [...placeFaults(settings)] : [];
  if (!(kvBytes >= MIN_KV_BYTES && kvBytes <= MAX_KV_BYTES))
    faults.push({ field: 'kvBytes', message: `KV memory must be ${MIN_KV_BYTES / MIB} to ${MAX_KV_BYTES / MIB} MiB.` });
  if (inFlight !== 'auto' && !isBetween(inFlight, 1, MAX_IN_FLIGHT))
    faults.push({ field: 'inFlight', message: `In flight may be 1 to ${MAX_IN_FLIGHT}, or auto.` });
  if (microBatchRows !== 'auto' && !isBetween(microBatchRows, 1, MAX_MICRO_BATCH_ROWS))
    faults.push({ field: 'microBatchRows', message: `Rows must be 1 to ${MAX_MICRO_BATCH_ROWS}, or auto.` });
  if (!(latencyMs >= 0 && latencyMs <= MAX_LATENCY_MS))
    faults.push({ field: 'latencyMs', message: `An added round trip may be 0 to ${MAX_LATENCY_MS} ms.` });
  return faults;
}

function placeFaults({ workers, remotes }: TierSettings): readonly TierFault[] {
  const faults: TierFault[] = [];
  if (!isBetween(workers, 0, MAX_WORKERS))
    faults.push({ field: 'workers', message: `There may be 0 to ${MAX_WORKERS} workers.` });
  if (workers === 0 && remotes.length === 0)
    faults.push({ field: 'workers', message: 'With no worker here, at least one remote node is needed.' });
  remotes.forEach(({ url }, index) => {
    const message =
      index >= MAX_REMOTES ? `There may be at most ${MAX_REMOTES} remote nodes.` : addressFault(url, remotes, index);
    if (message !== null) faults.push({ field: 'remotes', index, message });
  });
  return faults;
}

function addressFault(address: string, all: TierSettings['remotes'], index: number): string | null {
  if (address.trim() === '') return 'An address is needed, like ws://127.0.0.1:7411.';
  const url = URL.parse(address.trim());
  if (url === null || (url.protocol !== 'ws:' && url.protocol !== 'wss:') || url.hostname === '')
    return 'An address begins with ws:// or wss:// and has a host, like ws://127.0.0.1:7411.';
  if (url.username !== '' || url.password !== '') return 'The token belongs in its own field, not in the address.';
  const twice = all.slice(0, index).some((other) => URL.parse(other.url.trim())?.href === url.href);
  return twice ? 'This node is named above already.' : null;
}

function isBetween(value: number, low: number, high: number): boolean {
  return Number.isInteger(value) && value >= low && value <= high;
}
