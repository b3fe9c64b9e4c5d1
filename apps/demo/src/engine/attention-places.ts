/**
 * Where attention runs for the settings of a page: in the dense tier's own place, at workers of this tab, at remote nodes. Each
 * worker is a node of its own, so that one that dies takes only its own KV with it and is had again by connecting anew.
 */
import {
  type AttentionSource,
  createInlineAttention,
  localAttentionSource,
  webSocketSource,
} from '@glinthawk/attention';
import { InputError, type Logger } from '@glinthawk/core';
import { tierFaults } from '../tier-faults.ts';
import { PortWorkerSource } from './port-worker-source.ts';
import type { NodeReport, TierSettings } from './protocol.ts';

export interface AttentionPlace {
  readonly source: AttentionSource;
  readonly kind: NodeReport['kind'];
  /** Ends what the source holds beyond its connections. */
  destroy(): void;
}

/** @throws InputError when the settings don't make a tier */
export function attentionPlaces(
  tiers: TierSettings,
  options: { readonly sharedMemory: boolean; readonly logger: Logger },
): readonly AttentionPlace[] {
  checkTiers(tiers);
  if (tiers.mode === 'one-tier') return [inlinePlace(tiers.kvBytes)];
  const { workers, remotes } = tiers;
  const memoryBytes = workers > 0 ? Math.floor(tiers.kvBytes / workers) : 0;
  const local = Array.from({ length: workers }, (_, i) => {
    const name = `worker ${i + 1}`;
    return options.sharedMemory ? poolPlace(name, memoryBytes, options.logger) : portPlace(name, memoryBytes);
  });
  const away = remotes.map(({ url, token }): AttentionPlace => {
    const source = webSocketSource(url, { ...(token ? { token } : {}), logger: options.logger });
    return { source, kind: 'remote', destroy: () => {} };
  });
  return [...local, ...away];
}

function inlinePlace(memoryBytes: number): AttentionPlace {
  const name = 'dense tier';
  const source: AttentionSource = {
    name,
    connect: (geometry, { kvDtype }) => createInlineAttention(geometry, { kvDtype, memoryBytes, name }),
  };
  return { source, kind: 'inline', destroy: () => {} };
}

function poolPlace(name: string, memoryBytes: number, logger: Logger): AttentionPlace {
  return {
    source: localAttentionSource({ name, workers: 1, memoryBytes, logger }),
    kind: 'worker',
    destroy: () => {},
  };
}

function portPlace(name: string, memoryBytes: number): AttentionPlace {
  const source = new PortWorkerSource({ name, memoryBytes });
  return { source, kind: 'worker', destroy: () => source.destroy() };
}

function checkTiers(settings: TierSettings): void {
  const [fault] = tierFaults(settings);
  if (fault !== undefined) throw new InputError('INVALID_TIERS', fault.message);
}
