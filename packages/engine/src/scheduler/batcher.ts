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
import {
  MOST_PARTS,
  mostContextTokens,
  type PartRoom,
  type PlannedPart,
  planLargeParts,
  planParts,
  roomiest,
} from './part-plan.ts';
import { choosePlacement, countPlaceable, relativeSpeeds, type ShardState } from './placement.ts';
import { admissibleBlocks, choosePreemption, composeRows, laneShare, type Resident, type RowBudget } from './policy.ts';

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
  /** Under way, and some of their KV was lost with a node: the rest goes when their step ends. */
  readonly #bereaved = new WeakSet<Sequence>();

  constructor(options: BatcherOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Of those that wait, the ones that the nodes that are there can't take, not even all together, and their greatest length. */
  get stranded(): { readonly sequences: number; readonly tokens: number } {
    const nodes = this.#options.tier.connected;
    const stranded = this.#waiting.filter((sequence) => sequence.length > this.#mostTokensOf(sequence, nodes));
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
        if (sequence.leaving && !this.#bereaved.has(sequence)) this.#preemptions++;
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
    const [{ part } = { part: null }] = segment.entries;
    const isOneToken = segment.entries.every((entry) => entry.count === 1 && entry.part.owner === part?.owner);
    if (others > 0) {
      node.restrict({ steps: others });
    } else if (!isOneToken) {
      node.restrict({ rows: Math.floor(segment.rows / 2) });
    } else {
      const residents = sequencesAt(node.shards);
      residents.sort((a, b) => b.arrival - a.arrival);
      const [newest, another] = residents;
      if (newest !== undefined) {
        if (another === undefined) this.#refuse(node, newest, newest.length, error);
        this.#dismiss(newest);
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
      if (sequence.inStep) {
        // Parts at other nodes are in use until then.
        sequence.leaving = true;
        this.#bereaved.add(sequence);
        continue;
      }
      this.#releaseKv(sequence);
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
    this.#bereaved.delete(sequence);
    if (placement === null) return;
    sequence.placement = null;
    for (const part of placement.parts) this.#freePart(part);
  }

  #freePart(part: KvPart<Sequence>): void {
    // Of a node that was lost nothing is left to free; its place may be another's already.
    const node = this.#options.tier.node(part.shard.node);
    if (node?.shards.includes(part.shard)) node.free(part);
  }

  /** Gives back parts that left the window of every layer. */
  #freeUnseen({ placement, kvTokens }: Sequence): void {
    while (placement !== null && placement.partsTo(kvTokens).length > 1) {
      const [part] = placement.parts;
      if (part === undefined || part.shard.isSeen(part, kvTokens - part.firstToken)) return;
      placement.parts.shift();
      this.#freePart(part);
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

  /**
   * Blocks for its next step: at the shard that has its tokens now, else in a further part at another, else as others give up theirs.
   * False when it has to wait for them, or had to give up its own.
   */
  #grow(sequence: Sequence): boolean {
    this.#freeUnseen(sequence);
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
      const room = this.#furtherRoom(sequence, placement, part);
      if (room !== null) {
        this.#extend(sequence, placement, part, room);
        continue;
      }
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
    const nodes = this.#options.tier.connected.filter((node) => !this.#refuses(node, sequence));
    return choose([shard, ...nodes.flatMap(({ shards }) => shards.filter((other) => other !== shard))]);
  }

  /** Where the context goes on when the shard of its last part is full; null when there is room nowhere, or it has parts enough. */
  #furtherRoom(
    sequence: Sequence,
    { last, parts }: Placement<Sequence>,
    part: KvPart<Sequence>,
  ): PartRoom<KvShard<Sequence>> | null {
    if (part !== last || parts.length >= MOST_PARTS) return null;
    const rooms = this.#rooms(this.#options.tier.connected, sequence, { unlikely: true });
    return roomiest(rooms.filter(({ shard }) => shard !== part.shard));
  }

  /** Opens a further part where the blocks end that the last one has or can still get. */
  #extend(
    sequence: Sequence,
    placement: Placement<Sequence>,
    part: KvPart<Sequence>,
    room: PartRoom<KvShard<Sequence>>,
  ): void {
    const { shard, firstToken, promised } = part;
    const { blockTokens } = shard.shape;
    const held = Math.ceil((sequence.kvTokens - firstToken) / blockTokens) * blockTokens;
    const more = shard.tokensIn(promised + shard.freeBlocks);
    const end = firstToken + held + more;
    const further = this.#open(sequence, room.shard, end, Math.min(room.tokens, sequence.length - end));
    if (further === null) return;
    shard.promise(part, Math.max(promised, shard.blocksFor(more)));
    placement.parts.push(further);
  }

  /** Its KV goes to others: at once, or when its step ends. */
  #dismiss(sequence: Sequence): void {
    if (sequence.inStep) sequence.leaving = true;
    else this.#preempt(sequence);
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
      const plan = this.#plan(nodes, sequence);
      if (plan === 'full') {
        if (this.#evictPaused(sequence, nodes)) continue;
        return null;
      }
      if (plan === 'never' && tier.awaitsRoomFor(sequence.length)) {
        waitsForNode.add(sequence);
        continue;
      }
      if (plan === 'never') {
        this.#fail(sequence, this.#noRoom(sequence, nodes));
        continue;
      }
      const placement = this.#place(sequence, plan);
      if (placement === null) continue;
      sequence.placement = placement;
      this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
      sequence.job.waiting--;
      sequence.job.changed();
      return sequence;
    }
  }

  /** The shard that holds it, or else the parts that it can be held in. */
  #plan(
    nodes: readonly NodeConnection[],
    sequence: Sequence,
    gone?: (resident: Sequence) => boolean,
  ): readonly PlannedPart<KvShard<Sequence>>[] | 'full' | 'never' {
    const { length } = sequence;
    const choice = this.#choose(nodes, sequence, gone);
    if (typeof choice === 'number') {
      return [{ shard: nodes.flatMap((node) => node.shards)[choice] as KvShard<Sequence>, tokens: length }];
    }
    if (choice === 'full') return planLargeParts(this.#rooms(nodes, sequence, { gone }), length) ?? 'full';
    const plan =
      planParts(this.#rooms(nodes, sequence, { gone }), length) ??
      planParts(this.#rooms(nodes, sequence, { gone, unlikely: true }), length);
    return plan ?? (length <= this.#mostTokensOf(sequence, nodes) ? 'full' : 'never');
  }

  /** Tokens that it can have at the nodes, with all of them to itself. */
  #mostTokensOf(sequence: Sequence, nodes: readonly NodeConnection[]): number {
    const asked = nodes.filter((node) => !this.#refuses(node, sequence));
    return mostContextTokens(asked.flatMap((node) => node.partTokens));
  }

  /** Room for parts of it now; with `unlikely`, also for parts as large as what a node had no room for lately. */
  #rooms(
    nodes: readonly NodeConnection[],
    sequence: Sequence,
    {
      gone,
      unlikely = false,
    }: { readonly gone?: ((resident: Sequence) => boolean) | undefined; readonly unlikely?: boolean } = {},
  ): PartRoom<KvShard<Sequence>>[] {
    const states = shardStates(nodes, gone, (node) => !this.#refuses(node, sequence));
    let at = 0;
    return nodes.flatMap((node) => {
      const rooms = node.shards.map((shard) => {
        const state = states[at++] as ShardState;
        const own = [...shard.residents].filter(({ owner }) => owner === sequence).length;
        const blocks = state.blocks === 0 ? 0 : admissibleBlocks({ ...state, residents: state.residents - own });
        const most = unlikely ? Number.POSITIVE_INFINITY : shard.wholeBlocks(node.refusedTokens - 1);
        return { shard, tokens: Math.min(shard.tokensIn(blocks), most), speed: state.speed };
      });
      const parts = sequence.placement?.parts.filter(({ shard }) => shard.node === node.index).length ?? 0;
      return rooms.sort((a, b) => b.tokens - a.tokens).slice(0, Math.min(node.slotsLeft, node.mostParts - parts));
    });
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
    const most = this.#mostTokensOf(sequence, nodes);
    const message = `${sequence.length} tokens need KV, and all connected nodes together hold ${most} of one sequence`;
    return new CapacityError('KV_CAPACITY', message, {
      hint: 'give the attention nodes more memory, connect more of them, or use a smaller KV type',
    });
  }

  /**
   * Makes room for a sequence by taking KV from jobs whose consumers don't keep up: two calls of generate() that wait for each
   * other's consumer must not wait for ever. False when that would not suffice, or the room comes when a step ends.
   */
  #evictPaused(sequence: Sequence, nodes: readonly NodeConnection[]): boolean {
    const gone = ({ paused, leaving }: Sequence) => paused || leaving;
    const plan = this.#plan(nodes, sequence, gone);
    if (typeof plan === 'string') return false;
    const residents = sequencesAt(plan.map(({ shard }) => shard));
    // One at a time, as it takes no more than are needed.
    if (residents.some(({ leaving }) => leaving)) return false;
    const victim = residents.filter(({ paused }) => paused).sort((a, b) => b.arrival - a.arrival)[0];
    if (victim === undefined) return false;
    this.#dismiss(victim);
    return !victim.leaving;
  }

  /** All parts, or none and null when a node turned out to be lost, or full. */
  #place(sequence: Sequence, plan: readonly PlannedPart<KvShard<Sequence>>[]): Placement<Sequence> | null {
    let placement: Placement<Sequence> | null = null;
    let firstToken = 0;
    for (const { shard, tokens } of plan) {
      const part = this.#open(sequence, shard, firstToken, tokens);
      if (part === null) {
        for (const opened of placement?.parts ?? []) this.#freePart(opened);
        return null;
      }
      if (placement === null) placement = new Placement(part);
      else placement.parts.push(part);
      firstToken += tokens;
    }
    return placement;
  }

  /**
   * A part with blocks for so many tokens. Null when the node turned out to be lost, or full; one that has no slot even when empty isn't
   * asked again.
   */
  #open(sequence: Sequence, shard: KvShard<Sequence>, firstToken: number, tokens: number): KvPart<Sequence> | null {
    const node = this.#options.tier.node(shard.node);
    if (node === null) return null;
    try {
      const part = node.open(sequence, shard, firstToken);
      shard.promise(part, shard.blocksFor(tokens));
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
  return nodes.flatMap((node, i) => {
    const nodeTokens = node.shards.reduce((sum, shard) => sum + shard.tokensIn(shard.blocks - shard.freeBlocks), 0);
    return node.shards.map(({ shape, blocks, freeBlocks, residents }) => {
      let count = 0;
      let freed = 0;
      for (const part of residents) {
        if (part.owner === null || !gone(part.owner)) continue;
        count++;
        freed += part.ownBlocks;
      }
      return {
        blockTokens: shape.blockTokens,
        groups: shape.windows.length,
        blocks: takes(node) ? blocks : 0,
        freeBlocks: node.admits || count > 0 ? freeBlocks + freed : 0,
        residents: residents.size - count,
        nodeTokens,
        speed: speeds[i] ?? 1,
      };
    });
  });
}
