/**
 * Where sequences' KV is and could be: looks at what the nodes have free, asks placement.ts and part-plan.ts, and carries out what they
 * choose. Who may have KV, and who must give his up, is not decided here.
 */
import { CapacityError, NodeLostError } from '@glinthawk/core';
import type { AttentionTier } from '../attention-tier.ts';
import { type KvPart, type KvShard, Placement } from '../kv-shard.ts';
import { type NodeConnection, NodeFullError } from '../node-connection.ts';
import { LEAST_SHARED_TOKENS } from '../prefix-index.ts';
import type { Sequence } from '../sequence.ts';
import {
  MOST_PARTS,
  mostContextTokens,
  type PartRoom,
  type PlannedPart,
  planLargeParts,
  planParts,
  roomiest,
} from './part-plan.ts';
import { choosePlacement, countPlaceable, relativeSpeeds, type ShardFit, type ShardState } from './placement.ts';
import { admissibleBlocks } from './policy.ts';

/**
 * The shard that takes a sequence, or else the parts that it can be held in. `coming`: another sequence computes what it begins with,
 * where it would go. `full`: there is no room now. `never`: there would be none, were nobody else there.
 */
export type KvPlan = readonly PlannedPart<KvShard<Sequence>>[] | 'coming' | 'full' | 'never';

/** Residents to leave out, as if their KV had been given back. */
type Gone = (resident: Sequence) => boolean;
const nobody: Gone = () => false;

export class KvPlaces {
  /** Prompt tokens that did not have to be computed, as they stood already. */
  prefixHitTokens = 0;
  readonly #tier: AttentionTier;
  /** Nodes that had no room for a sequence even alone: they aren't asked again for it. */
  readonly #refusals = new WeakMap<Sequence, Map<NodeConnection, NodeFullError>>();

  constructor(tier: AttentionTier) {
    this.#tier = tier;
  }

  /** A node had no room for it, with nothing else there. */
  refuse(node: NodeConnection, sequence: Sequence, tokens: number, error: NodeFullError): void {
    node.refuse(tokens);
    const refusals = this.#refusals.get(sequence) ?? new Map<NodeConnection, NodeFullError>();
    this.#refusals.set(sequence, refusals.set(node, error));
  }

  /** Tokens that it can have at the nodes, with all of them to itself. */
  mostTokensOf(sequence: Sequence): number {
    return mostContextTokens(this.#asked(sequence).flatMap((node) => node.partTokens));
  }

  /** What a node said that had no room for it, or else what would have been needed. */
  noRoom(sequence: Sequence): CapacityError {
    const refusals = this.#refusals.get(sequence);
    const refusal = this.#tier.connected.map((node) => refusals?.get(node)).find((error) => error !== undefined);
    if (refusal !== undefined) return refusal;
    const most = this.mostTokensOf(sequence);
    const bound = this.shardsFor(sequence).length > MOST_PARTS ? `, in the ${MOST_PARTS} parts that it may have` : '';
    const message = `${sequence.length} tokens need KV, and all connected nodes together hold ${most} of one sequence`;
    return new CapacityError('KV_CAPACITY', message + bound, {
      hint: 'give the attention nodes more memory, connect more of them, or use a smaller KV type',
    });
  }

  /** Of these sequences, how many there is KV for now, placed one after the other. */
  countPlaceable(sequences: Iterable<Sequence>, most: number): number {
    const nodes = this.#tier.connected;
    const fits: ShardFit[][] = [];
    for (const sequence of sequences) {
      if (fits.length === most) break;
      if (this.#asked(sequence).length > 0) fits.push(fitsOf(sequence, nodes));
    }
    return countPlaceable(shardStates(nodes), fits);
  }

  plan(sequence: Sequence, gone: Gone = nobody): KvPlan {
    const { length } = sequence;
    const nodes = this.#tier.connected;
    const fits = fitsOf(sequence, nodes);
    const choice = this.#choose(sequence, fits, gone);
    if (typeof choice === 'number') {
      const { matchedTokens, standingTokens } = fits[choice] as Fit;
      if (matchedTokens - standingTokens >= LEAST_SHARED_TOKENS) return 'coming';
      return [{ shard: nodes.flatMap((node) => node.shards)[choice] as KvShard<Sequence>, tokens: length }];
    }
    if (choice === 'full') return planLargeParts(this.#rooms(sequence, { gone }), length) ?? 'full';
    const plan =
      planParts(this.#rooms(sequence, { gone }), length) ??
      planParts(this.#rooms(sequence, { gone, unlikely: true }), length);
    return plan ?? (length <= this.mostTokensOf(sequence) ? 'full' : 'never');
  }

  /** All parts of a plan, or none and false when a node turned out to be lost, or full. */
  place(sequence: Sequence, plan: readonly PlannedPart<KvShard<Sequence>>[]): boolean {
    let placement: Placement<Sequence> | null = null;
    let firstToken = 0;
    for (const { shard, tokens } of plan) {
      const part =
        plan.length === 1
          ? this.#asking(sequence, shard, (node) => node.place(sequence, shard))
          : this.#open(sequence, shard, firstToken, tokens);
      if (part === null) {
        for (const opened of placement?.parts ?? []) this.#nodeOf(opened)?.free(opened);
        return false;
      }
      if (placement === null) placement = new Placement(part);
      else placement.parts.push(part);
      firstToken += tokens;
    }
    sequence.placement = placement;
    // What it had itself before it was preempted is no hit.
    const hits = Math.min(sequence.kvTokens, sequence.promptTokens) - sequence.prefilledTokens;
    if (hits > 0) {
      sequence.prefilledTokens += hits;
      this.prefixHitTokens += hits;
    }
    return true;
  }

  /** More of its KV stands. */
  advance(sequence: Sequence): void {
    for (const part of sequence.placement?.parts ?? []) this.#nodeOf(part)?.advance(part, sequence);
  }

  /** It gives its KV up: what stands of it may be of use to others, and to itself. */
  release(sequence: Sequence): void {
    const { placement } = sequence;
    sequence.placement = null;
    for (const part of placement?.parts ?? []) this.#nodeOf(part)?.leave(part, sequence);
    sequence.kvTokens = 0;
  }

  /** Gives back parts that left the window of every layer. */
  freeUnseen({ placement, kvTokens }: Sequence): void {
    while (placement !== null && placement.partsTo(kvTokens).length > 1) {
      const [part] = placement.parts;
      if (part === undefined || part.shard.isSeen(part, kvTokens - part.firstToken)) return;
      placement.parts.shift();
      this.#nodeOf(part)?.free(part);
    }
  }

  /** A further part, where the blocks end that the last one has or can still get; false when there is room nowhere, or it has parts enough. */
  extend(sequence: Sequence, placement: Placement<Sequence>, part: KvPart<Sequence>): boolean {
    if (part !== placement.last || placement.parts.length >= MOST_PARTS) return false;
    const rooms = this.#rooms(sequence, { unlikely: true });
    const room = roomiest(rooms.filter(({ shard }) => shard !== part.shard));
    if (room === null) return false;
    const { shard, firstToken, promised } = part;
    const { blockTokens, windows } = shard.shape;
    const held = Math.ceil((sequence.kvTokens - firstToken) / blockTokens);
    const more = Math.floor((promised + shard.freeBlocks) / windows.length);
    const end = firstToken + (held + more) * blockTokens;
    const further = this.#open(sequence, room.shard, end, Math.min(room.tokens, sequence.length - end));
    // Without it, whoever asked looks again: the node is lost, or takes no more.
    if (further === null) return true;
    shard.promise(part, Math.max(promised, more * windows.length));
    placement.parts.push(further);
    return true;
  }

  /** Nodes that were not found to have no room for it. */
  #asked(sequence: Sequence): NodeConnection[] {
    return this.#tier.connected.filter((node) => !this.#refuses(node, sequence));
  }

  /** Shards where a part of it could be, for what others have there. */
  shardsFor(sequence: Sequence): readonly KvShard<Sequence>[] {
    return this.#asked(sequence).flatMap(({ shards }) => shards);
  }

  #refuses(node: NodeConnection, sequence: Sequence): boolean {
    return this.#refusals.get(sequence)?.has(node) ?? false;
  }

  /** Null when it is lost: nothing is left to free then, and its place may be another's already. */
  #nodeOf({ shard }: KvPart<Sequence>): NodeConnection | null {
    const node = this.#tier.node(shard.node);
    return node?.shards.includes(shard) ? node : null;
  }

  /** As choosePlacement, among the shards of all nodes; one that had no room for others as long comes last. */
  #choose(sequence: Sequence, fits: readonly ShardFit[], gone: Gone): number | 'full' | 'never' {
    const nodes = this.#tier.connected;
    const mayAsk = (node: NodeConnection) => !this.#refuses(node, sequence);
    const isLikely = (node: NodeConnection) => mayAsk(node) && sequence.length < node.refusedTokens;
    const likely = choosePlacement(shardStates(nodes, gone, isLikely), fits);
    return likely === 'never' ? choosePlacement(shardStates(nodes, gone, mayAsk), fits) : likely;
  }

  /** Room for parts of it now; with `unlikely`, also for parts as large as what a node had no room for lately. */
  #rooms(
    sequence: Sequence,
    { gone = nobody, unlikely = false }: { readonly gone?: Gone; readonly unlikely?: boolean } = {},
  ): PartRoom<KvShard<Sequence>>[] {
    const nodes = this.#tier.connected;
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

  /** A part with blocks for so many tokens. */
  #open(sequence: Sequence, shard: KvShard<Sequence>, firstToken: number, tokens: number): KvPart<Sequence> | null {
    const part = this.#asking(sequence, shard, (node) => node.open(sequence, shard, firstToken));
    if (part === null) return null;
    part.expected = tokens;
    shard.promise(part, shard.blocksFor(tokens));
    return part;
  }

  /** Null when the node turned out to be lost, or full: it gets nothing new until a step there went through. One that has no slot even when empty isn't asked again. */
  #asking(
    sequence: Sequence,
    shard: KvShard<Sequence>,
    ask: (node: NodeConnection) => KvPart<Sequence>,
  ): KvPart<Sequence> | null {
    const node = this.#tier.node(shard.node);
    if (node === null) return null;
    try {
      return ask(node);
    } catch (thrown) {
      if (thrown instanceof NodeFullError) {
        if (node.slotsLeft > 0 && residesWithOthers(node, sequence)) node.strained = true;
        else if (node.slotsLeft > 0 && !node.dropCached()) this.refuse(node, sequence, 1, thrown);
      } else if (!(thrown instanceof NodeLostError)) {
        throw thrown;
      }
      return null;
    }
  }
}

function residesWithOthers({ shards }: NodeConnection, sequence: Sequence): boolean {
  return shards.some(({ residents }) => [...residents].some(({ owner }) => owner !== sequence));
}

interface Fit extends ShardFit {
  /** Of those that match, tokens that stand. */
  readonly standingTokens: number;
}

/** What a sequence would be to every shard of the nodes. */
function fitsOf(sequence: Sequence, nodes: readonly NodeConnection[]): Fit[] {
  const { length: tokens, mostTokens } = sequence;
  return nodes.flatMap((node) =>
    node.shards.map((shard) => {
      const wholeBlocks = shard.blocksFor(tokens);
      const holdsAll = shard.blocksFor(mostTokens) <= shard.blocks;
      if (wholeBlocks > shard.blocks) {
        return { wholeBlocks, newBlocks: wholeBlocks, tokens, matchedTokens: 0, standingTokens: 0, holdsAll };
      }
      const { match, coming } = node.match(sequence, shard);
      const standingTokens = match?.tokens ?? 0;
      const newBlocks = match === null ? wholeBlocks : shard.blocksFor(tokens, { ...match, part: match.holder.part });
      return {
        wholeBlocks,
        newBlocks,
        tokens,
        matchedTokens: Math.max(standingTokens, coming),
        standingTokens,
        holdsAll,
      };
    }),
  );
}

/** @param takes whether the node can be asked; one that can't be has no blocks here */
function shardStates(
  nodes: readonly NodeConnection[],
  gone: Gone = nobody,
  takes: (node: NodeConnection) => boolean = () => true,
): ShardState[] {
  const speeds = relativeSpeeds(nodes.map((node) => node.speed.get()));
  return nodes.flatMap((node, i) => {
    const nodeTokens = node.shards.reduce((sum, { residentTokens }) => sum + residentTokens, 0);
    return node.shards.map(({ blocks, freeBlocks, residents }) => {
      let count = 0;
      let freed = 0;
      for (const part of residents) {
        if (part.owner === null || !gone(part.owner)) continue;
        count++;
        freed += part.ownBlocks;
      }
      return {
        blocks: takes(node) ? blocks : 0,
        freeBlocks: node.admits || count > 0 ? freeBlocks + freed : 0,
        residents: residents.size - count,
        nodeTokens,
        speed: speeds[i] ?? 1,
      };
    });
  });
}
