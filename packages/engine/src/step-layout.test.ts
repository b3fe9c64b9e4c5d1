import { describe, expect, it } from 'vitest';
import { KvPart, KvShard } from './kv-shard.ts';
import type { NodeConnection } from './node-connection.ts';
import type { Sequence } from './sequence.ts';
import { type LaidRows, layOutStep } from './step-layout.ts';

const nodes = [0, 1, 2].map((index) => ({ index }) as NodeConnection);
const layOut = (rows: readonly LaidRows[]) => layOutStep(rows, (index) => nodes[index] ?? null);

let slots = 0;
function part(node: number, index: number, firstToken = 0, tokens = 0): KvPart<Sequence> {
  const shard = new KvShard<Sequence>({ node, index }, { blockTokens: 16, stepTokens: 512, windows: [0] }, 100);
  const made = new KvPart(null, shard, { index: slots++, generation: 1 }, firstToken);
  made.tokens = tokens;
  return made;
}

/** Rows one after the other. */
function inOrder(rows: readonly Omit<LaidRows, 'row'>[]): LaidRows[] {
  let row = 0;
  return rows.map((each) => {
    row += each.count;
    return { ...each, row: row - each.count };
  });
}

describe('sequences that each lie in one shard', () => {
  it('go out from where they lie: a segment a node, nothing staged, nothing merged', () => {
    const rows = inOrder([
      { position: 9, count: 1, parts: [part(0, 0)] },
      { position: 0, count: 3, parts: [part(0, 1)] },
      { position: 4, count: 2, parts: [part(2, 0)] },
    ]);
    const { segments, merges, stagedRows } = layOut(rows);
    expect(segments.map(({ node }) => node.index)).toEqual([0, 2]);
    expect(segments.map(({ runs }) => runs)).toEqual([[{ row: 0, count: 4 }], [{ row: 4, count: 2 }]]);
    expect(segments.map(({ kvTokens }) => kvTokens)).toEqual([10 + 1 + 2 + 3, 5 + 6]);
    expect(segments[0]?.entries).toEqual([
      { part: rows[0]?.parts[0], position: 9, count: 1 },
      { part: rows[1]?.parts[0], position: 0, count: 3 },
    ]);
    for (const { staged } of segments) expect(staged).toEqual({ qkv: null, output: null, logSumExp: null });
    expect(merges).toEqual([]);
    expect(stagedRows).toEqual({ qkv: 0, output: 0, logSumExp: 0 });
  });

  it('no rows, no segments', () => {
    expect(layOut([])).toEqual({ segments: [], merges: [], stagedRows: { qkv: 0, output: 0, logSumExp: 0 } });
  });
});

describe('a sequence in parts', () => {
  it('alone over two nodes: qkv is not copied; only the visit’s results lie elsewhere', () => {
    const parts = [part(0, 0, 0, 64), part(1, 0, 64, 10)];
    const { segments, merges, stagedRows } = layOut(inOrder([{ position: 74, count: 2, parts }]));
    expect(segments.map(({ entries }) => entries)).toEqual([
      [{ part: parts[0], position: 74, count: 2, visit: true }],
      [{ part: parts[1], position: 10, count: 2 }],
    ]);
    expect(segments.map(({ staged }) => staged)).toEqual([
      { qkv: null, output: 0, logSumExp: 0 },
      { qkv: null, output: null, logSumExp: 2 },
    ]);
    expect(segments.map(({ kvTokens }) => kvTokens)).toEqual([2 * 64, 11 + 12]);
    expect(merges).toEqual([
      {
        row: 0,
        count: 2,
        from: [
          { segment: 0, row: 0 },
          { segment: 1, row: 0 },
        ],
      },
    ]);
    expect(stagedRows).toEqual({ qkv: 0, output: 2, logSumExp: 4 });
  });

  it('among others: entries of a shard are neighbours, gathered rows are in their order, all of a gathering node is put back', () => {
    // Rows in the order of (node, shard) of last parts: a at (0, 0), b at (0, 1), c last at (1, 0) with parts at (0, 1) and (0, 0).
    const a = { position: 5, count: 1, parts: [part(0, 0)] };
    const b = { position: 7, count: 2, parts: [part(0, 1)] };
    const c = { position: 100, count: 1, parts: [part(0, 1, 0, 32), part(0, 0, 32, 64), part(1, 0, 96, 4)] };
    const { segments, merges, stagedRows } = layOut(inOrder([a, b, c]));
    expect(segments[0]?.entries.map(({ part, position, visit = false }) => [part, position, visit])).toEqual([
      [a.parts[0], 5, false],
      [c.parts[1], 68, true],
      [b.parts[0], 7, false],
      [c.parts[0], 100, true],
    ]);
    expect(segments[0]?.runs).toEqual([
      { row: 0, count: 1 },
      { row: 3, count: 1 },
      { row: 1, count: 3 },
    ]);
    expect(segments[0]?.staged).toEqual({ qkv: 0, output: 0, logSumExp: 0 });
    expect(segments[1]?.staged).toEqual({ qkv: null, output: null, logSumExp: 5 });
    expect(stagedRows).toEqual({ qkv: 5, output: 5, logSumExp: 6 });
    const from = (segment: number, row: number) => ({ segment, row });
    expect(merges.toSorted((x, y) => x.row - y.row)).toEqual([
      { row: 0, count: 1, from: [from(0, 0)] },
      { row: 1, count: 2, from: [from(0, 2)] },
      { row: 3, count: 1, from: [from(0, 4), from(0, 1), from(1, 0)] },
    ]);
  });

  it('twice in one shard: two slots, neighbours', () => {
    const parts = [part(0, 0, 0, 32), part(0, 1, 32, 32), part(0, 0, 64, 1)];
    const { segments, merges } = layOut(inOrder([{ position: 65, count: 1, parts }]));
    expect(segments[0]?.entries.map(({ part }) => part)).toEqual([parts[0], parts[2], parts[1]]);
    expect(segments[0]?.rows).toBe(3);
    expect(merges[0]?.from.map(({ row }) => row)).toEqual([0, 2, 1]);
  });
});

it('a node that is not there is a mistake of the caller', () => {
  expect(() => layOut([{ row: 0, position: 0, count: 1, parts: [part(7, 0)] }])).toThrow(/node 7/);
});
