/** What the page and one lend worker say to each other: plain data. */

/**
 * connecting: no connection yet, or again. connected: the job is there and has not begun with this node. serving: it holds KV for the
 * job. waiting: not reached or over, tried again in a while; `reason` says why. refused: for good. stopped: as asked, or its worker died.
 */
export type LendState = 'connecting' | 'connected' | 'serving' | 'waiting' | 'refused' | 'stopped';

export interface LentWorker {
  readonly name: string;
  readonly state: LendState;
  /** Why it waits or was refused; null else. */
  readonly reason: string | null;
  readonly usedBlocks: number;
  /** 0 while no session is open. */
  readonly blocks: number;
  readonly blockBytes: number;
  readonly slots: number;
  /** Since it was started. */
  readonly attends: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Part of the time since the last report in which kernels ran, 0 to 1. */
  readonly busyShare: number;
}

export interface LendStart {
  readonly type: 'start';
  readonly name: string;
  readonly url: string;
  readonly token: string | null;
  /** KV at most. */
  readonly memoryBytes: number;
}

export type LendCommand = LendStart | { readonly type: 'stop' };
