/**
 * Which rows of a micro-batch go to which node. A sequence's rows go to the part of its context that takes their keys and values,
 * and visit every earlier part. Where nothing visits a node, its rows are neighbours: they are taken from the micro-batch and
 * written back to it in place, with no copy. Pure; router.ts does what is laid out here.
 */
import type { KvPart, PartRows } from './kv-shard.ts';
import type { NodeConnection } from './node-connection.ts';
import type { Sequence } from './sequence.ts';
import type { SplitRowCounts } from './split-rows.ts';

/** Neighbouring rows of the micro-batch. */
export interface RowRun {
  readonly row: number;
  readonly count: number;
}

/** What goes to one node. */
export interface Segment {
  readonly node: NodeConnection;
  /** Those of one shard are neighbours. */
  readonly entries: readonly PartRows<Sequence>[];
  /** Its rows in the micro-batch, in the order of the entries; one run can be taken from where it lies. */
  readonly runs: readonly RowRun[];
  readonly rows: number;
  /** Σ over rows of the tokens that each attends to here. */
  readonly kvTokens: number;
  /** First row of its own in the micro-batch's SplitRows; null where that buffer isn't needed. */
  readonly staged: { readonly [Buffer in keyof SplitRowCounts]: number | null };
}

/** Rows whose results don't stand where they belong: of several parts, in order of position, or of one that a node gathered. */
export interface Merge extends RowRun {
  /** Where the parts' results are: rows of segments. */
  readonly from: readonly { readonly segment: number; readonly row: number }[];
}

export interface StepLayout {
  readonly segments: readonly Segment[];
  readonly merges: readonly Merge[];
  readonly stagedRows: SplitRowCounts;
}

/** One sequence's rows: neighbours in the micro-batch, at `position` and following ones of its context. */
export interface LaidRows extends RowRun {
  readonly position: number;
  /** Ascending; the last is the one that takes their keys and values. */
  readonly parts: readonly KvPart<Sequence>[];
}

interface Piece {
  readonly of: LaidRows;
  /** Which of its parts. */
  readonly at: number;
  readonly part: KvPart<Sequence>;
  readonly visit: boolean;
}

/** @param rows in the micro-batch's order: by (node, shard) of their last parts */
export function layOutStep(rows: readonly LaidRows[], nodeOf: (index: number) => NodeConnection | null): StepLayout {
  const byNode = Map.groupBy(rows.flatMap(piecesOf), ({ part }) => part.shard.node);
  const stagedRows = { qkv: 0, output: 0, logSumExp: 0 };
  const segments: Segment[] = [];
  const results = new Map<LaidRows, { segment: number; row: number }[]>();
  for (const [index, pieces] of [...byNode].sort(([a], [b]) => a - b)) {
    const node = nodeOf(index);
    if (node === null) throw new Error(`a placement at node ${index}, which is not connected`);
    pieces.sort((a, b) => a.part.shard.index - b.part.shard.index || a.of.row - b.of.row || a.at - b.at);
    const { runs, starts, rows } = runsOf(pieces);
    const visited = pieces.some(({ visit }) => visit);
    const split = pieces.some(({ of }) => of.parts.length > 1);
    for (const [i, { of, at }] of pieces.entries()) {
      if (!visited && of.parts.length === 1) continue;
      const from = results.get(of) ?? [];
      from[at] = { segment: segments.length, row: starts[i] as number };
      results.set(of, from);
    }
    const stage = (buffer: keyof SplitRowCounts, needed: boolean) => {
      if (!needed) return null;
      const first = stagedRows[buffer];
      stagedRows[buffer] += rows;
      return first;
    };
    segments.push({
      node,
      entries: pieces.map(entryOf),
      runs,
      rows,
      kvTokens: pieces.reduce((sum, piece) => sum + kvTokensOf(piece), 0),
      staged: {
        qkv: stage('qkv', runs.length > 1),
        output: stage('output', visited),
        logSumExp: stage('logSumExp', split),
      },
    });
  }
  const merges = [...results].map(([{ row, count }, from]) => ({ row, count, from }));
  return { segments, merges, stagedRows };
}

function piecesOf(of: LaidRows): Piece[] {
  return of.parts.map((part, at) => ({ of, at, part, visit: at < of.parts.length - 1 }));
}

function entryOf({ of: { position, count }, part, visit }: Piece): PartRows<Sequence> {
  const rows = { part, position: position - part.firstToken, count };
  return visit ? { ...rows, visit } : rows;
}

function kvTokensOf({ of: { position, count }, part: { firstToken, tokens }, visit }: Piece): number {
  return visit ? count * tokens : count * (position - firstToken) + (count * (count + 1)) / 2;
}

/** Pieces as runs of neighbouring rows, and where each piece begins among them. */
function runsOf(pieces: readonly Piece[]) {
  const runs: { row: number; count: number }[] = [];
  const starts: number[] = [];
  let rows = 0;
  for (const { of } of pieces) {
    starts.push(rows);
    rows += of.count;
    const last = runs.at(-1);
    if (last !== undefined && last.row + last.count === of.row) last.count += of.count;
    else runs.push({ row: of.row, count: of.count });
  }
  return { runs, starts, rows };
}
