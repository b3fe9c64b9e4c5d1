/**
 * Where every sequence is: waiting, or placed and going with one micro-batch. Carries out what policy.ts and placement.ts choose:
 * admission, growth, preemption, sharing out over micro-batches. All state changes are synchronous and happen between steps of
 * the micro-batch concerned; a sequence whose rows are under way is only marked, and handled when its step is settled.
 */
import { CapacityError, type GlinthawkError, NodeLostError } from '@glinthawk/core';
import type { AttentionTier } from '../attention-tier.ts';
import { type KvPart, type KvShard, Placement } from '../kv-shard.ts';
import type { Lane, LaneStep } from '../lane.ts';
import { type NodeConnection, NodeFullError } from '../node-connection.ts';
import type { Sequence } from '../sequence.ts';
import type { InFlight } from './in-flight.ts';
import { choosePlacement, countPlaceable, relativeSpeeds, type ShardState } from './placement.ts';
import { choosePreemption, composeRows, laneShare, type Resident, type RowBudget } from './policy.ts';

export interface BatcherOptions {
  readonly tier: AttentionTier;
  readonly inFlight: InFlight;
  readonly budget: RowBudget;
  /** A micro-batch that was idle may have something to do. */
  readonly onWork: () => void;
  /** A request that can't go on; its sequence has ended. */
  readonly onFailure: (sequence: Sequence, error: GlinthawkError) => void;
}

export class Batcher {
  readonly #options: BatcherOptions;
  readonly #lanes: Lane[] = [];
  /** Oldest first; what lost its KV is older than what was never placed, and so stands in front. */
  readonly #waiting: Sequence[] = [];
  #preemptions = 0;
  #stepIds = 0;
  /** The first step that was composed after a node's last refusal. */
  readonly #refusedBefore = new WeakMap<NodeConnection, number>();
  /** Nodes that had no room for a sequence even alone: they aren't asked again for it. */
  readonly #refusals = new WeakMap<Sequence, Map<NodeConnection, NodeFullError>>();

  constructor(options: BatcherOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Of those that wait, the ones that no node that is there can take, and their greatest length. */
  get stranded(): { readonly sequences: number; readonly tokens: number } {
    const nodes = this.#options.tier.connected;
    const largest = nodes.map(({ shards }) => Math.max(0, ...shards.map(({ tokens }) => tokens)));
    const stranded = this.#waiting.filter(
      (sequence) => !nodes.some((node, i) => sequence.length <= (largest[i] ?? 0) && !this.#refuses(node, sequence)),
    );
    return { sequences: stranded.length, tokens: Math.max(0, ...stranded.map(({ length }) => length)) };
  }

  /** Of those that wait, the ones (`most` are looked at) for which there is KV: they wait for room in a micro-batch. */
  placeable(most: number): number {
    const nodes = this.#options.tier.connected;
    const isPossible = (sequence: Sequence) =>
      !sequence.job.paused && nodes.some((node) => !this.#refuses(node, sequence));
    const oldest = this.#waiting.filter(isPossible).slice(0, most);
    return countPlaceable(
      shardStates(nodes),
      oldest.map(({ length: tokens, mostTokens }) => ({ tokens, mostTokens })),
    );
  }

  get running(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.sequences.length, 0);
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  addLane(lane: Lane): void {
    this.#lanes.push(lane);
  }

  /** Takes a new sequence. */
  enqueue(sequence: Sequence): void {
    sequence.job.held++;
    this.#wait(sequence);
    this.#options.onWork();
  }

  /** The micro-batch's next step, or null when there is nothing that it can do now. */
  compose(lane: Lane): LaneStep | null {
    const { inFlight } = this.#options;
    if (lane.index >= inFlight.current) {
      for (const sequence of [...lane.sequences]) this.#move(lane, sequence);
      return null;
    }
    this.#shareOut(lane);
    const ready: Sequence[] = [];
    for (const sequence of [...lane.sequences]) {
      // One that comes later in this list may have been preempted for an older one just now.
      if (sequence.placement === null || sequence.leaving || sequence.job.paused) continue;
      if (this.#grow(sequence)) ready.push(sequence);
    }
    this.#admit(lane, ready);
    return this.#stepOf(lane, ready);
  }

  /**
   * A step of those that are still placed (a node may have turned out to be lost during admission), at nodes that take another
   * step. Those at other nodes go when a step there is settled.
   */
  #stepOf(lane: Lane, composed: readonly Sequence[]): LaneStep | null {
    const { budget, tier } = this.#options;
    const nodes = new Set(tier.connected.filter((node) => this.#stepsAt(node) < node.mostSteps));
    const nodeRows = new Map([...nodes].map((node) => [node.index, node.mostStepRows]));
    const ready = [...new Set(composed)].filter(
      ({ nodes: at }) => at.length > 0 && at.every((node) => nodeRows.has(node)),
    );
    if (ready.length === 0) return null;
    ready.sort((a, b) => a.arrival - b.arrival);
    const counts = composeRows(ready, budget, nodeRows);
    const chosen = ready.map((sequence, i) => ({ sequence, count: counts[i] ?? 0 }));
    const step = lane.layOut(this.#stepIds++, chosen, (index) => tier.node(index));
    for (const { sequence } of step.entries) sequence.inStep = true;
    return step;
  }

  /** The step is over: its tokens were delivered (`done`), or it was abandoned and its sequences run it again. */
  settle(lane: Lane, step: LaneStep, done: boolean): void {
    for (const { sequence, position, count } of step.entries) {
      sequence.inStep = false;
      if (sequence.ended) {
        this.#leave(sequence);
        continue;
      }
      if (sequence.placement !== null && done) sequence.kvTokens = position + count;
      if (sequence.placement === null || sequence.leaving) {
        if (sequence.leaving) this.#preemptions++;
        this.#releaseKv(sequence);
        lane.remove(sequence);
        this.#wait(sequence);
      }
    }
    if (done) for (const { node } of lane.segments) node.stepEnded();
    lane.segments = [];
    this.#options.onWork();
  }

  /**
   * A node had no room for a step, which is settled. It is tried again with fewer steps there at once, then with fewer rows,
   * then with fewer sequences; each refusal leaves less until a step goes through. A sequence that it has no room for even alone goes
   * to another node; it fails only where none could take it.
   */
  refused(step: LaneStep, error: NodeFullError): void {
    const node = error.connection;
    const segment = step.segments.find((each) => each.node === node);
    // What was composed before the last refusal says nothing about what was changed then.
    if (node.isLost || segment === undefined || step.id < (this.#refusedBefore.get(node) ?? 0)) return;
    this.#refusedBefore.set(node, this.#stepIds);
    node.strained = true;
    const others = this.#stepsAt(node);
    if (others > 0) {
      node.restrict({ steps: others });
    } else if (segment.rows > 1) {
      node.restrict({ rows: Math.floor(segment.rows / 2) });
    } else {
      const residents = sequencesAt(node.shards);
      residents.sort((a, b) => b.arrival - a.arrival);
      const [newest, another] = residents;
      if (newest !== undefined) {
        if (another === undefined) this.#refuse(node, newest, newest.length, error);
        this.#preempt(newest);
      }
    }
    this.#options.onWork();
  }

  #refuse(node: NodeConnection, sequence: Sequence, tokens: number, error: NodeFullError): void {
    node.refuse(tokens);
    const refusals = this.#refusals.get(sequence) ?? new Map<NodeConnection, NodeFullError>();
    this.#refusals.set(sequence, refusals.set(node, error));
  }

  #refuses(node: NodeConnection, sequence: Sequence): boolean {
    return this.#refusals.get(sequence)?.has(node) ?? false;
  }

  #stepsAt(node: NodeConnection): number {
    return this.#lanes.filter((lane) => lane.feeds(node)).length;
  }

  /** Nothing of these sequences is wanted any more. */
  drop(which: (sequence: Sequence) => boolean): void {
    const all = [...this.#waiting, ...this.#lanes.flatMap((lane) => lane.sequences)];
    for (const sequence of all) {
      if (sequence.ended || !which(sequence)) continue;
      sequence.ended = true;
      if (!sequence.inStep) this.#leave(sequence);
    }
    this.#options.onWork();
  }

  /** The node's KV is gone: its sequences wait for another place, those under way when their step ends. */
  nodeLost(node: NodeConnection): void {
    for (const sequence of sequencesAt(node.shards)) {
      this.#releaseKv(sequence);
      if (sequence.inStep) continue;
      this.#lanes[sequence.lane]?.remove(sequence);
      this.#wait(sequence);
    }
    this.#options.onWork();
  }

  /** Out of every queue, with its KV. */
  #leave(sequence: Sequence): void {
    const { job } = sequence;
    this.#releaseKv(sequence);
    const lane = this.#lanes[sequence.lane];
    if (lane !== undefined) {
      lane.remove(sequence);
    } else {
      const at = this.#waiting.indexOf(sequence);
      if (at >= 0) {
        this.#waiting.splice(at, 1);
        job.waiting--;
      }
    }
    job.held--;
    job.changed();
  }

  #wait(sequence: Sequence): void {
    let at = this.#waiting.length;
    while (at > 0 && (this.#waiting[at - 1] as Sequence).arrival > sequence.arrival) at--;
    this.#waiting.splice(at, 0, sequence);
    sequence.job.waiting++;
  }

  #releaseKv(sequence: Sequence): void {
    const { placement } = sequence;
    sequence.kvTokens = 0;
    sequence.leaving = false;
    if (placement === null) return;
    sequence.placement = null;
    for (const part of placement.parts) {
      // Of a node that was lost nothing is left to free; its place may be another's already.
      const node = this.#options.tier.node(part.shard.node);
      if (node?.shards.includes(part.shard)) node.free(part);
    }
  }

  /** Gives sequences above this micro-batch's share to those that have fewer. */
  #shareOut(lane: Lane): void {
    const share = Math.ceil(this.running / this.#options.inFlight.current);
    while (lane.sequences.length > share) {
      const newest = lane.sequences.at(-1);
      if (newest === undefined) return;
      this.#move(lane, newest);
    }
  }

  #move(from: Lane, sequence: Sequence): void {
    let to: Lane | null = null;
    for (const lane of this.#lanes.slice(0, this.#options.inFlight.current)) {
      if (lane !== from && (to === null || lane.sequences.length < to.sequences.length)) to = lane;
    }
    if (to === null) return;
    from.remove(sequence);
    to.add(sequence);
    this.#options.onWork();
  }

  /** Blocks for its next step; false when it has to wait for them, or had to give up its own. */
  #grow(sequence: Sequence): boolean {
    const { placement, kvTokens } = sequence;
    if (placement === null) return false;
    const part = placement.last;
    const { shard, firstToken } = part;
    const next = kvTokens + Math.min(sequence.pendingTokens, this.#options.budget.prefillChunk);
    for (;;) {
      const { takes, frees } = shard.change(part, kvTokens - firstToken, next - firstToken);
      const needed = takes - frees - part.promised;
      if (needed <= 0) return true;
      if (needed <= shard.freeBlocks) {
        shard.promise(part, part.promised + needed);
        return true;
      }
      const residents = [...shard.residents].map((each) => new Candidate(each.owner ?? sequence, each));
      const victim = choosePreemption(residents, new Candidate(sequence, part), needed - shard.freeBlocks);
      if (victim === 'wait') return false;
      if (victim.sequence.inStep) victim.sequence.leaving = true;
      else this.#preempt(victim.sequence);
      if (victim.sequence === sequence) return false;
    }
  }

  #preempt(sequence: Sequence): void {
    this.#preemptions++;
    this.#releaseKv(sequence);
    this.#lanes[sequence.lane]?.remove(sequence);
    this.#wait(sequence);
  }

  /** Takes waiting sequences, oldest first, as long as this micro-batch has rows for them: so admission is staggered. */
  #admit(lane: Lane, ready: Sequence[]): void {
    const { inFlight, budget } = this.#options;
    const rowsOf = (sequence: Sequence) => Math.min(sequence.pendingTokens, budget.prefillChunk);
    let rows = budget.rows - ready.reduce((sum, sequence) => sum + rowsOf(sequence), 0);
    while (rows > 0 && this.#waiting.length > 0) {
      const share = laneShare(this.running + this.#waiting.length, inFlight.current, budget);
      if (lane.sequences.length >= share) return;
      const sequence = this.#placeNext();
      if (sequence === null) return;
      lane.add(sequence);
      ready.push(sequence);
      rows -= rowsOf(sequence);
    }
  }

  /**
   * Places the oldest waiting sequence whose job keeps up; null when there is none or no room for it. One that only a node
   * that is away (or is yet to join) can hold waits for that node, and holds nobody up.
   */
  #placeNext(): Sequence | null {
    const { tier } = this.#options;
    const waitsForNode = new Set<Sequence>();
    for (;;) {
      const sequence = this.#waiting.find((waiting) => !waiting.job.paused && !waitsForNode.has(waiting));
      if (sequence === undefined) return null;
      const nodes = tier.connected;
      if (nodes.length === 0) return null;
      const shards = nodes.flatMap((node) => node.shards);
      const choice = this.#choose(nodes, sequence);
      if (choice === 'full') {
        if (this.#evictPaused(sequence, nodes)) continue;
        return null;
      }
      if (choice === 'never' && tier.awaitsRoomFor(sequence.length)) {
        waitsForNode.add(sequence);
        continue;
      }
      if (choice === 'never') {
        this.#fail(sequence, this.#noRoom(sequence, nodes));
        continue;
      }
      const part = this.#open(sequence, shards[choice] as KvShard<Sequence>);
      if (part === null) continue;
      sequence.placement = new Placement(part);
      this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
      sequence.job.waiting--;
      sequence.job.changed();
      return sequence;
    }
  }

  /** As choosePlacement, among the shards of all nodes; one that had no room for others as long comes last. */
  #choose(
    nodes: readonly NodeConnection[],
    sequence: Sequence,
    gone?: (resident: Sequence) => boolean,
  ): number | 'full' | 'never' {
    const need = { tokens: sequence.length, mostTokens: sequence.mostTokens };
    const mayAsk = (node: NodeConnection) => !this.#refuses(node, sequence);
    const isLikely = (node: NodeConnection) => mayAsk(node) && sequence.length < node.refusedTokens;
    const likely = choosePlacement(shardStates(nodes, gone, isLikely), need);
    return likely === 'never' ? choosePlacement(shardStates(nodes, gone, mayAsk), need) : likely;
  }

  /** What a node said that had no room for it, or else what would have been needed. */
  #noRoom(sequence: Sequence, nodes: readonly NodeConnection[]): CapacityError {
    const refusals = this.#refusals.get(sequence);
    const refusal = nodes.map((node) => refusals?.get(node)).find((error) => error !== undefined);
    if (refusal !== undefined) return refusal;
    const largest = Math.max(0, ...nodes.flatMap(({ shards }) => shards.map(({ tokens }) => tokens)));
    const message = `${sequence.length} tokens need KV, and the largest shard holds ${largest}`;
    return new CapacityError('KV_CAPACITY', message, {
      hint: 'give the attention nodes more memory, or use a smaller KV type',
    });
  }

  /**
   * Makes room for a sequence by taking KV from jobs whose consumers don't keep up: two calls of generate() that wait for each
   * other's consumer must not wait for ever. False when that would not suffice, or the room comes when a step ends.
   */
  #evictPaused(sequence: Sequence, nodes: readonly NodeConnection[]): boolean {
    const gone = ({ paused, leaving }: Sequence) => paused || leaving;
    const choice = this.#choose(nodes, sequence, gone);
    if (typeof choice !== 'number') return false;
    const residents = sequencesAt(nodes.flatMap((node) => node.shards).slice(choice, choice + 1));
    // One at a time, as it takes no more than are needed.
    if (residents.some(({ leaving }) => leaving)) return false;
    const victim = residents.filter(({ paused }) => paused).sort((a, b) => b.arrival - a.arrival)[0];
    if (victim === undefined) return false;
    if (victim.inStep) victim.leaving = true;
    else this.#preempt(victim);
    return !victim.leaving;
  }

  /** Null when the node turned out to be lost, or full; one that has no slot even when empty isn't asked again. */
  #open(sequence: Sequence, shard: KvShard<Sequence>): KvPart<Sequence> | null {
    const node = this.#options.tier.node(shard.node);
    if (node === null) return null;
    try {
      const part = node.open(sequence, shard);
      shard.promise(part, shard.blocksFor(sequence.length));
      return part;
    } catch (thrown) {
      if (thrown instanceof NodeFullError) {
        if (node.residents === 0) this.#refuse(node, sequence, 1, thrown);
      } else if (!(thrown instanceof NodeLostError)) {
        throw thrown;
      }
      return null;
    }
  }

  #fail(sequence: Sequence, error: GlinthawkError): void {
    sequence.ended = true;
    this.#options.onFailure(sequence, error);
    this.#leave(sequence);
  }
}

/** A resident part and whose it is, as one that may have to go. */
class Candidate implements Resident {
  readonly sequence: Sequence;
  readonly #part: KvPart<Sequence>;

  constructor(sequence: Sequence, part: KvPart<Sequence>) {
    this.sequence = sequence;
    this.#part = part;
  }

  get arrival(): number {
    return this.sequence.arrival;
  }

  /** Not counted until somebody asks. */
  get blocks(): number {
    return this.#part.ownBlocks;
  }

  get leaving(): boolean {
    return this.sequence.leaving;
  }

  get paused(): boolean {
    return this.sequence.paused;
  }
}

/** Who has KV there. */
function sequencesAt(shards: readonly KvShard<Sequence>[]): Sequence[] {
  const sequences = new Set<Sequence>();
  for (const { residents } of shards) for (const { owner } of residents) if (owner !== null) sequences.add(owner);
  return [...sequences];
}

/**
 * @param gone residents to leave out, as if their KV had been given back
 * @param takes whether the node can be asked; one that can't be has no blocks here
 */
function shardStates(
  nodes: readonly NodeConnection[],
  gone: (resident: Sequence) => boolean = () => false,
  takes: (node: NodeConnection) => boolean = () => true,
): ShardState[] {
  const speeds = relativeSpeeds(nodes.map((node) => node.speed.get()));
  return nodes.flatMap((node, i) =>
    node.shards.map(({ shape, blocks, freeBlocks, residents }) => {
      let count = 0;
      let freed = 0;
      for (const part of residents) {
        if (part.owner === null || !gone(part.owner)) continue;
        count++;
        freed += part.ownBlocks;
      }
      return {
        blockTokens: shape.blockTokens,
        blocks: takes(node) ? blocks : 0,
        freeBlocks: node.admits || count > 0 ? freeBlocks + freed : 0,
        residents: residents.size - count,
        speed: speeds[i] ?? 1,
      };
    }),
  );
}
