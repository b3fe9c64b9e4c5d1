/**
 * Every choice of the scheduler, as pure functions of plain values: which rows make up a micro-batch, who is admitted, who
 * loses its KV when a shard is full, whose stage goes first, how many micro-batches to keep in flight. The engine carries them
 * out; a simulator may call the same ones. Nothing here changes what is generated, only when.
 */

/** `arrival` numbers sequences in the order in which they were pulled; lower is older and goes first. */
export interface PendingSequence {
  readonly arrival: number;
  /** Tokens whose KV is missing: 1 when decoding, more when prefilling. */
  readonly pendingTokens: number;
  /** Of these, how many one step may have: all, or those up to the end of the part of its context that takes them. */
  readonly stepTokens: number;
  /** Indices of the attention nodes that its rows go to, one for each part of its context. */
  readonly nodes: readonly number[];
}

export interface RowBudget {
  /** Rows of a micro-batch. */
  readonly rows: number;
  /** Head rows of a micro-batch: sequences whose next token comes out of it. */
  readonly headRows: number;
  /** Tokens of one prompt in one step. */
  readonly prefillChunk: number;
}

/**
 * Rows that each attention node, by index, takes in one step; absent is any number. A token of a context that has several parts at a
 * node is as many rows there; one such token is always taken by a node that has nothing else in the step.
 */
export type NodeRows = ReadonlyMap<number, number>;

/**
 * How many rows each sequence (given oldest first) gets: decode rows first, since each is a token for one row, then the oldest
 * prompts' chunks into what is left. 0 waits for the next step.
 */
export function composeRows(
  sequences: readonly PendingSequence[],
  budget: RowBudget,
  nodeRows: NodeRows = new Map(),
): number[] {
  let rows = budget.rows;
  let headRows = budget.headRows;
  const left = new Map(nodeRows);
  const roomAt = (nodes: readonly number[]) => {
    let room = rows;
    for (const node of nodes) {
      const free = left.get(node) ?? Number.POSITIVE_INFINITY;
      const isUntouched = free > 0 && free === nodeRows.get(node);
      const parts = nodes.length === 1 ? 1 : nodes.filter((other) => other === node).length;
      room = Math.min(room, Math.max(isUntouched ? 1 : 0, Math.floor(free / parts)));
    }
    return room;
  };
  const take = (nodes: readonly number[], count: number) => {
    rows -= count;
    for (const node of nodes) left.set(node, Math.max(0, (left.get(node) ?? Number.POSITIVE_INFINITY) - count));
  };
  const given = sequences.map(({ pendingTokens, nodes }): number => {
    if (pendingTokens !== 1 || headRows === 0 || roomAt(nodes) === 0) return 0;
    take(nodes, 1);
    headRows--;
    return 1;
  });
  for (const [i, { pendingTokens, stepTokens, nodes }] of sequences.entries()) {
    if (rows === 0) break;
    const room = pendingTokens > 1 ? roomAt(nodes) : 0;
    if (room === 0) continue;
    let count = Math.min(stepTokens, budget.prefillChunk, room);
    // Without a head row left, a prompt's last token waits.
    if (count === pendingTokens && headRows === 0) count--;
    else if (count === pendingTokens) headRows--;
    given[i] = count;
    take(nodes, count);
  }
  return given;
}

/**
 * Blocks of a shard that admission leaves free, so that sequences that are running there can grow before one has to be
 * preempted: 1 % of all, and one for every second resident.
 */
export function watermarkBlocks(blocks: number, residents: number): number {
  return Math.ceil(blocks / 100) + Math.ceil(residents / 2);
}

interface ShardRoom {
  readonly blocks: number;
  readonly freeBlocks: number;
  readonly residents: number;
}

/** Blocks that admission may give out. All of an empty shard's, so that nothing waits for ever. */
export function admissibleBlocks({ blocks, freeBlocks, residents }: ShardRoom): number {
  return Math.max(0, residents === 0 ? freeBlocks : freeBlocks - watermarkBlocks(blocks, residents));
}

/** Whether a shard takes a sequence now. */
export function admits(shard: ShardRoom, needed: number): boolean {
  return needed <= admissibleBlocks(shard);
}

/** Sequences that one micro-batch may hold, when `sequences` are to be spread over `inFlight` of them. */
export function laneShare(sequences: number, inFlight: number, budget: RowBudget): number {
  return Math.max(1, Math.min(budget.rows, budget.headRows, Math.ceil(sequences / inFlight)));
}

export interface Resident {
  readonly arrival: number;
  /** Blocks that it would give back. */
  readonly blocks: number;
  /** It was chosen before and gives its blocks back when its step ends. */
  readonly leaving: boolean;
  /** Nothing of it is run at present, as its consumer doesn't keep up. */
  readonly paused: boolean;
}

/**
 * Who gives up its KV for `requester`, which needs `needed` more blocks than are free: the newest resident, or nobody yet when
 * enough is on its way out. The requester itself when it is the newest: so the oldest sequence of a shard always goes on,
 * and every sequence becomes the oldest once. Paused residents go before all others: who waits for them waits for ever.
 */
export function choosePreemption<R extends Resident>(residents: Iterable<R>, requester: R, needed: number): R | 'wait' {
  let coming = 0;
  let newest: R = requester;
  let newestPaused: R | null = null;
  for (const resident of residents) {
    if (resident.leaving) coming += resident.blocks;
    else if (resident.paused && resident.arrival > (newestPaused?.arrival ?? -1)) newestPaused = resident;
    else if (resident.arrival > newest.arrival) newest = resident;
  }
  return coming >= needed ? 'wait' : (newestPaused ?? newest);
}

export type StagePolicy = 'fcfs' | 'deepest-first' | 'starvation-first';

export interface WaitingStage {
  /** Order in which stages began to wait. */
  readonly arrival: number;
  /** 0 is the embedding and pre-attention of layer 0, l + 1 what follows attention of layer l. */
  readonly depth: number;
  /** Rows under way at the emptiest attention node that this stage would feed; Infinity when it feeds none. */
  readonly outstandingRows: number;
}

/**
 * Which waiting stage the dense tier takes next; an index. `deepest-first` is the Glinthawk paper's (arXiv 2501.11779):
 * a micro-batch that is nearly through makes room soonest. `starvation-first` feeds the attention node with the least to do.
 */
export function pickStage(policy: StagePolicy, waiting: readonly WaitingStage[]): number {
  let best = 0;
  for (let i = 1; i < waiting.length; i++) {
    if (comesFirst(policy, waiting[i] as WaitingStage, waiting[best] as WaitingStage)) best = i;
  }
  return best;
}

function comesFirst(policy: StagePolicy, a: WaitingStage, b: WaitingStage): boolean {
  switch (policy) {
    case 'fcfs':
      return a.arrival < b.arrival;
    case 'deepest-first':
      return a.depth !== b.depth ? a.depth > b.depth : a.arrival < b.arrival;
    case 'starvation-first':
      if (a.outstandingRows !== b.outstandingRows) return a.outstandingRows < b.outstandingRows;
      return a.depth !== b.depth ? a.depth > b.depth : a.arrival < b.arrival;
    default:
      return policy satisfies never;
  }
}

export interface StageTimes {
  /** What one stage of one micro-batch occupies of the dense device: its busy time over its calls. */
  readonly denseMs: number;
  /** One attention stage, transfer and round trip included, without waiting behind others. */
  readonly attentionMs: number;
  /** How much the latter varies (mean deviation). */
  readonly attentionJitterMs: number;
  /** The part of attentionMs in which the busiest node can do nothing else. */
  readonly attentionBusyMs: number;
}

const HYSTERESIS = 0.75;

/**
 * Micro-batches in flight that keep the slower tier busy: a micro-batch's own round (dense + attention + jitter) over the part
 * of it that occupies the slower tier. With remote attention that waits and hardly works this is 1 + (round trip +
 * attention) / dense; with attention that is itself the bottleneck, a few suffice. Rounded to the nearest, since splitting a
 * micro-batch in two reads the weights twice, which little waiting doesn't pay for; and the present number stays until the
 * measurement is well past the middle between it and the next.
 */
export function inFlightTarget(times: StageTimes, current: number, most: number): number {
  const slower = Math.max(times.denseMs, times.attentionBusyMs, 1e-6);
  const round = times.denseMs + times.attentionMs + times.attentionJitterMs;
  const wanted = round / slower;
  const target = Math.abs(wanted - current) < HYSTERESIS ? current : Math.round(wanted);
  return Math.max(1, Math.min(most, target));
}

/**
 * Rows of a micro-batch at most, when not told: what KV can hold, in sequences of half the context, spread over the micro-batches
 * expected in flight; within bounds that keep prefill efficient and a step short.
 */
export function autoMicroBatchRows(kvTokens: number, contextTokens: number, inFlight: number): number {
  const sequences = kvTokens / Math.max(1, contextTokens / 2);
  const rows = 2 ** Math.ceil(Math.log2(Math.max(1, sequences / inFlight)));
  return Math.max(64, Math.min(256, rows));
}
