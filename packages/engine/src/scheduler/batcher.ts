/**
 * The micro-batches: which sequence goes with which, and what each one's next step is. Carries out what policy.ts chooses: growth,
 * preemption, sharing out; admission.ts has those that wait, kv-places.ts knows where KV is. All state changes are synchronous and
 * happen between steps of the micro-batch concerned; a sequence whose rows are under way is only marked, and handled when its step
 * is settled.
 */
import type { GlinthawkError } from '@glinthawk/core';
import type { AttentionTier } from '../attention-tier.ts';
import type { KvPart, KvShard, Placement } from '../kv-shard.ts';
import type { Lane, LaneStep } from '../lane.ts';
import type { NodeConnection, NodeFullError } from '../node-connection.ts';
import type { Sequence } from '../sequence.ts';
import type { Segment } from '../step-layout.ts';
import { Admission } from './admission.ts';
import type { InFlight } from './in-flight.ts';
import { KvPlaces } from './kv-places.ts';
import { MOST_PARTS } from './part-plan.ts';
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
  readonly #places: KvPlaces;
  readonly #admission: Admission;
  readonly #lanes: Lane[] = [];
  #preemptions = 0;
  #stepIds = 0;
  /** The first step that was composed after a node's last refusal. */
  readonly #refusedBefore = new WeakMap<NodeConnection, number>();
  /** Under way, and some of their KV was lost with a node: the rest goes when their step ends. */
  readonly #bereaved = new WeakSet<Sequence>();

  constructor(options: BatcherOptions) {
    this.#options = options;
    const { tier } = options;
    this.#places = new KvPlaces(tier);
    this.#admission = new Admission({
      tier,
      places: this.#places,
      dismiss: (sequence) => this.#dismiss(sequence),
      fail: (sequence, error) => this.#fail(sequence, error),
    });
  }

  get waiting(): number {
    return this.#admission.waiting.length;
  }

  /** As Admission.stranded. */
  get stranded(): { readonly sequences: number; readonly tokens: number } {
    return this.#admission.stranded;
  }

  /** As Admission.placeable. */
  placeable(most: number): number {
    return this.#admission.placeable(most);
  }

  /** As KvPlaces.prefixHitTokens. */
  get prefixHitTokens(): number {
    return this.#places.prefixHitTokens;
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
    this.#admission.add(sequence);
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
      if (sequence.placement !== null && done) {
        sequence.kvTokens = position + count;
        this.#places.advance(sequence);
      }
      if (sequence.ended) {
        this.#leave(sequence);
      } else if (sequence.placement === null || sequence.leaving) {
        if (sequence.leaving && !this.#bereaved.has(sequence)) this.#preemptions++;
        this.#putBack(sequence);
      }
    }
    if (done) for (const { node } of lane.segments) node.stepEnded();
    lane.segments = [];
    this.#options.onWork();
  }

  /**
   * A node had no room for a step, which is settled. It is tried again without the forks that it may have had none for, without what is only kept there, with fewer steps at once,
   * with fewer rows, then with fewer sequences; each refusal leaves less until a step goes through. A sequence that it has no room for even alone goes
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
    const [{ part } = { part: null }] = segment.entries;
    const isOneToken = segment.entries.every((entry) => entry.count === 1 && entry.part.owner === part?.owner);
    if (this.#dropDoubted(segment)) {
      // A fork is refused at each step, and its sequence begins anew.
    } else if (node.dropCached()) {
      // Perhaps that was all that it took.
    } else if (others > 0) {
      node.restrict({ steps: others });
    } else if (!isOneToken) {
      node.restrict({ rows: Math.floor(segment.rows / 2) });
    } else {
      const residents = sequencesAt(node.shards);
      residents.sort((a, b) => b.arrival - a.arrival);
      const [newest, another] = residents;
      if (newest !== undefined) {
        if (another === undefined) this.#places.refuse(node, newest, newest.length, error);
        this.#dismiss(newest);
      }
    }
    this.#options.onWork();
  }

  /** Those whose forks no step went through on yet wait for another place. @returns whether there were any */
  #dropDoubted({ node, entries }: Segment): boolean {
    const doubted = entries.flatMap(({ part }) => {
      const { owner } = part;
      return owner?.placement?.parts.includes(part) && node.doubt(part, owner) ? [owner] : [];
    });
    for (const sequence of doubted) this.#putBack(sequence);
    return doubted.length > 0;
  }

  #stepsAt(node: NodeConnection): number {
    return this.#lanes.filter((lane) => lane.feeds(node)).length;
  }

  /** Nothing of these sequences is wanted any more. */
  drop(which: (sequence: Sequence) => boolean): void {
    const all = [...this.#admission.waiting, ...this.#lanes.flatMap((lane) => lane.sequences)];
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
      if (sequence.inStep) {
        // Parts at other nodes are in use until then.
        sequence.leaving = true;
        this.#bereaved.add(sequence);
        continue;
      }
      this.#putBack(sequence);
    }
    this.#options.onWork();
  }

  /** Out of every queue, with its KV. */
  #leave(sequence: Sequence): void {
    const { job } = sequence;
    this.#releaseKv(sequence);
    const lane = this.#lanes[sequence.lane];
    if (lane === undefined) this.#admission.remove(sequence);
    else lane.remove(sequence);
    job.held--;
    job.changed();
  }

  /** Without its KV, to those that wait. */
  #putBack(sequence: Sequence): void {
    this.#releaseKv(sequence);
    this.#lanes[sequence.lane]?.remove(sequence);
    this.#admission.add(sequence);
  }

  #releaseKv(sequence: Sequence): void {
    this.#places.release(sequence);
    sequence.leaving = false;
    this.#bereaved.delete(sequence);
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

  /**
   * Blocks for its next step: at the shard that has its tokens now, else in a further part at another, else as others give up theirs.
   * False when it has to wait for them, or had to give up its own.
   */
  #grow(sequence: Sequence): boolean {
    this.#places.freeUnseen(sequence);
    for (;;) {
      const { placement, kvTokens } = sequence;
      if (placement === null || sequence.leaving) return false;
      const part = placement.partAt(kvTokens);
      const { shard, firstToken } = part;
      const next = kvTokens + Math.min(sequence.stepTokens, this.#options.budget.prefillChunk);
      const { takes, frees } = shard.change(part, kvTokens - firstToken, next - firstToken);
      const needed = takes - frees - part.promised;
      if (needed <= 0) return true;
      if (needed <= shard.freeBlocks) {
        shard.promise(part, part.promised + needed);
        return true;
      }
      if (this.#places.extend(sequence, placement, part)) continue;
      const victim = this.#victimFor(sequence, placement, part, needed);
      if (victim === 'wait') return false;
      this.#dismiss(victim);
      if (victim === sequence) return false;
    }
  }

  /** Whose KV goes for one that has no room: of those at its shard, or, if it is the newest there, of those where a part of it could be. */
  #victimFor(
    sequence: Sequence,
    placement: Placement<Sequence>,
    part: KvPart<Sequence>,
    needed: number,
  ): Sequence | 'wait' {
    const { shard } = part;
    const choose = (shards: readonly KvShard<Sequence>[]) => {
      const residents = shards.flatMap(({ residents }) => [...residents]);
      const candidates = residents.map((each) => new Candidate(each.owner ?? sequence, each));
      const chosen = choosePreemption(candidates, new Candidate(sequence, part), needed - shard.freeBlocks);
      return chosen === 'wait' ? chosen : chosen.sequence;
    };
    const here = choose([shard]);
    if (here !== sequence || placement.parts.length >= MOST_PARTS) return here;
    return choose([shard, ...this.#places.shardsFor(sequence).filter((other) => other !== shard)]);
  }

  /** Its KV goes to others: at once, or when its step ends. */
  #dismiss(sequence: Sequence): void {
    if (sequence.inStep) {
      sequence.leaving = true;
      return;
    }
    this.#preemptions++;
    this.#putBack(sequence);
  }

  /** Takes waiting sequences as long as this micro-batch has rows for them: so admission is staggered. */
  #admit(lane: Lane, ready: Sequence[]): void {
    const { inFlight, budget } = this.#options;
    const rowsOf = (sequence: Sequence) => Math.min(sequence.pendingTokens, budget.prefillChunk);
    let rows = budget.rows - ready.reduce((sum, sequence) => sum + rowsOf(sequence), 0);
    while (rows > 0 && this.waiting > 0) {
      const share = laneShare(this.running + this.waiting, inFlight.current, budget);
      // Those whose consumer doesn't keep up take no rows.
      if (lane.sequences.filter(({ paused }) => !paused).length >= share) return;
      const sequence = this.#admission.next();
      if (sequence === null) return;
      lane.add(sequence);
      ready.push(sequence);
      rows -= rowsOf(sequence);
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
