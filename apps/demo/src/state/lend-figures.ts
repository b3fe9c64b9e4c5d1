/** What a lent tab does, summed over its workers, and in words. Pure. */
import type { LentWorker } from '../lend/lend-messages.ts';
import type { LendStatus } from '../lend/lender.ts';

export interface LendFigures {
  readonly connected: number;
  readonly workers: number;
  readonly usedBlocks: number;
  readonly blocks: number;
  /** Of KV held now. */
  readonly bytesHeld: number;
  readonly slots: number;
  readonly attends: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** The mean over workers, 0 to 1. */
  readonly busyShare: number;
}

export function lendFigures({ workers }: LendStatus): LendFigures {
  const sum = (of: (worker: LentWorker) => number): number => workers.reduce((total, worker) => total + of(worker), 0);
  return {
    connected: workers.filter(isServing).length,
    workers: workers.length,
    usedBlocks: sum(({ usedBlocks }) => usedBlocks),
    blocks: sum(({ blocks }) => blocks),
    bytesHeld: sum(({ usedBlocks, blockBytes }) => usedBlocks * blockBytes),
    slots: sum(({ slots }) => slots),
    attends: sum(({ attends }) => attends),
    bytesIn: sum(({ bytesIn }) => bytesIn),
    bytesOut: sum(({ bytesOut }) => bytesOut),
    busyShare: workers.length === 0 ? 0 : sum(({ busyShare }) => busyShare) / workers.length,
  };
}

function isServing({ state }: LentWorker): boolean {
  return state === 'connected' || state === 'serving';
}

const STATE_WORDS: Readonly<Record<LentWorker['state'], string>> = {
  connecting: 'connecting',
  connected: 'connected, the job has not begun with it',
  serving: 'serving',
  waiting: 'waiting',
  refused: 'refused',
  stopped: 'stopped',
};

export function workerWords({ state, reason }: LentWorker): string {
  return reason === null ? STATE_WORDS[state] : `${STATE_WORDS[state]}: ${reason}`;
}

/** One line for a live region: it changes when a worker's state does, not with every number. */
export function lendStatusText({ lending, workers }: LendStatus): string {
  if (!lending) return workers.length === 0 ? 'Not lending.' : 'Stopped. The job goes on without this tab.';
  const serving = workers.filter(({ state }) => state === 'serving').length;
  const connected = workers.filter(isServing).length;
  if (serving > 0)
    return `Lending: ${serving} of ${workers.length === 1 ? '1 worker' : `${workers.length} workers`} serving the job.`;
  if (connected > 0) return `Connected; the job has not begun with this tab yet.`;
  if (workers.every(({ state }) => state === 'refused')) return 'The job refused this tab.';
  return 'Connecting to the job…';
}

export function lendTitle(status: LendStatus): string {
  return status.lending ? `${lendFigures(status).connected} lent: Glinthawk` : 'Lend this tab: Glinthawk';
}
