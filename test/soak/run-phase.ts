/** One phase from its first slot to nothing left. */

import type { Counts } from './counts.ts';
import { openRig, type Phase } from './phase.ts';
import { Mismatch, Traffic, type TrafficWatcher } from './traffic.ts';

/** @throws Mismatch */
export async function runPhase(phase: Phase, actions: number, counts: Counts, watcher: TrafficWatcher): Promise<void> {
  const rig = await openRig(phase);
  try {
    await new Traffic(phase, rig, counts).run(actions, watcher);
  } finally {
    await rig.close();
  }
  const { bytes, connections } = rig.held();
  const { usedBlocks, openSlots } = rig.cache.stats();
  if (bytes !== 0 || rig.cache.allocatedBytes() !== 0) {
    throw new Mismatch(`${bytes} bytes are held after the end, ${rig.cache.allocatedBytes()} by the cache`);
  }
  if (connections !== 0) throw new Mismatch(`${connections} connections are left`);
  if (usedBlocks !== 0 || openSlots !== 0) throw new Mismatch(`${usedBlocks} blocks and ${openSlots} slots are left`);
}
