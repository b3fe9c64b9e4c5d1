/** A node that has just begun. */
import type { AttentionNodeStats } from '@glinthawk/attention';

export const IDLE_NODE: AttentionNodeStats = {
  connections: 0,
  session: null,
  sessionsServed: 0,
  refused: 0,
  pendingAttends: 0,
  openSlots: 0,
  workers: 2,
  blocks: 0,
  usedBlocks: 0,
  busyMs: 0,
  kvBytesRead: 0,
  appendedTokens: 0,
  forkedTokens: 0,
  allocatedBytes: 0,
  bytesReceived: 0,
  bytesSent: 0,
  tensorBytesReceived: 0,
  tensorBytesSent: 0,
  bytesCopied: 0,
  draining: false,
};
