import type { Options } from './options.ts';
import type { Table } from './table.ts';
export interface OverheadResult {
  readonly name: string;
}
export async function measureOverhead(
  _o: Options,
): Promise<{ title: string; results: OverheadResult[]; table: Table }> {
  return { title: '', results: [], table: { heads: [], rows: [] } };
}
