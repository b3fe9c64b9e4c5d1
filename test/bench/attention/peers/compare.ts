import type { Options } from '../options.ts';
import type { Table } from '../table.ts';
import type { Work } from '../work.ts';
export interface PeerResult {
  readonly name: string;
}
export async function comparePeers(
  _w: Work,
  _o: Options,
): Promise<{ results: PeerResult[]; table: Table; notes: string[] }> {
  return { results: [], table: { heads: [], rows: [] }, notes: [] };
}
