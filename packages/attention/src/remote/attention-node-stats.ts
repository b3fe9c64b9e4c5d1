/** What an attention node says of itself: what it holds now, and what its sessions come to together. */
import type { NodeStats } from '@glinthawk/wire';

export interface AttentionNodeStats {
  readonly connections: number;
  /** Name of the session's connection, or null. */
  readonly session: string | null;
  readonly sessionsServed: number;
  readonly refused: number;
  /** It will leave: nobody is let in any more. */
  readonly draining: boolean;
  /** Of the session; 0 without one. */
  readonly workers: number;
  readonly blocks: number;
  readonly usedBlocks: number;
  readonly openSlots: number;
  readonly pendingAttends: number;
  /** Of the backend and of frames under way. */
  readonly allocatedBytes: number;
  /** What follows adds up over all sessions. First all bytes, handshakes and keepalive too. */
  readonly bytesReceived: number;
  readonly bytesSent: number;
  /** As in NodeStats: where nothing is copied twice, `bytesCopied` is `tensorBytesReceived`. */
  readonly tensorBytesReceived: number;
  readonly tensorBytesSent: number;
  readonly bytesCopied: number;
  readonly busyMs: number;
  readonly kvBytesRead: number;
  readonly appendedTokens: number;
  readonly forkedTokens: number;
}

const SUMS = [
  'tensorBytesReceived',
  'tensorBytesSent',
  'bytesCopied',
  'busyMs',
  'kvBytesRead',
  'appendedTokens',
  'forkedTokens',
] as const satisfies readonly (keyof NodeStats)[];
export type SessionSums = Readonly<Record<(typeof SUMS)[number], number>>;

/** With those of one more session. */
export function added(sums: SessionSums, session: NodeStats | undefined): SessionSums {
  if (session === undefined) return sums;
  return Object.fromEntries(SUMS.map((name) => [name, sums[name] + session[name]])) as SessionSums;
}

export const noSums = Object.fromEntries(SUMS.map((name) => [name, 0])) as SessionSums;
