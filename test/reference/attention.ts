/**
 * The attention tier in plain loops and double precision, with KV rounded as its dtype says. It refuses what a real one refuses
 * (kv-memory.ts), so that a wrong account in the engine fails a test. It can be slow, die at a chosen attend, refuse, or come
 * up late.
 */
import type { AttentionBackend, AttentionSource, AttentionStats, AttentionStep, Slot } from '@glinthawk/attention';
import {
  type AttentionGeometry,
  bf16BitsToF32,
  CapacityError,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToF16Bits,
  InputError,
  type KvDtype,
  NodeLostError,
  ProtocolError,
  qkvRowFloats,
} from '@glinthawk/core';
import { KvMemory } from './kv-memory.ts';

export interface ReferenceAttentionOptions {
  readonly name?: string;
  readonly blockTokens?: number;
  /** Blocks of each shard; one entry a shard. */
  readonly shards?: readonly number[];
  /** Milliseconds before an attend resolves; a function is asked each time. 0 resolves in a microtask. */
  readonly latencyMs?: number | (() => number);
  /** The n-th attend of a connection (from 1) kills the node; one entry a connection, later ones live. */
  readonly dieAtAttend?: readonly number[];
  /** Connection attempts that fail before one succeeds, at start and after each death. */
  readonly failedConnects?: number;
  /** Refuses the handshake with this reason. */
  readonly refusal?: string;
  /** Dies without rejecting its attends: only `lost` tells. */
  readonly silentDeath?: boolean;
}

/**
 * bf16 lies in pairs (i, i + 4) of every 8 dimensions, and the upper one is read with the lower one's bits as the rest of its
 * mantissa: the number of that form whose bits are nearest to the value's, and not a subnormal.
 */
function nearestAbove(value: number, low: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0] as number;
  let nearest = Number.POSITIVE_INFINITY;
  for (const step of [-0x10000, 0, 0x10000]) {
    const candidate = ((bits & 0x7fff0000) | low) + step;
    const magnitude = bits & 0x7fffffff;
    if (candidate >= 0x00800000 && Math.abs(candidate - magnitude) <= Math.abs(nearest - magnitude))
      nearest = candidate;
  }
  return Math.sign(value) * (new Float32Array(new Uint32Array([nearest]).buffer)[0] as number);
}

/** One token's K or V of all heads as the cache gives it back. int8 has one f32 scale per head. */
export function roundKv(row: Float32Array, dtype: KvDtype, headDim: number): Float64Array {
  switch (dtype) {
    case 'f32':
      return Float64Array.from(row);
    case 'f16':
      return Float64Array.from(row, (x) => f16BitsToF32(f32ToF16Bits(x)));
    case 'bf16': {
      const rounded = new Float64Array(row.length);
      for (let at = 0; at < row.length; at += headDim) {
        for (let i = 0; i < headDim; i++) {
          const low = i % 8 < 4 ? 0 : f32ToBf16Bits(row[at + i - 4] as number);
          rounded[at + i] =
            i % 8 < 4 ? bf16BitsToF32(f32ToBf16Bits(row[at + i] as number)) : nearestAbove(row[at + i] as number, low);
        }
      }
      return rounded;
    }
    case 'int8': {
      const rounded = new Float64Array(row.length);
      for (let at = 0; at < row.length; at += headDim) {
        let max = 0;
        for (let i = 0; i < headDim; i++) max = Math.max(max, Math.abs(row[at + i] as number));
        const scale = Math.fround(max / 127);
        for (let i = 0; i < headDim; i++) {
          rounded[at + i] = scale === 0 ? 0 : Math.round((row[at + i] as number) / scale) * scale;
        }
      }
      return rounded;
    }
    default:
      return dtype satisfies never;
  }
}

/** Attention of one query head over the tokens that it sees. */
export function attendOne(
  q: Float64Array,
  keys: readonly Float64Array[],
  values: readonly Float64Array[],
  at: number,
  softmaxScale: number,
): { readonly output: Float64Array; readonly logSumExp: number } {
  const scores = keys.map((k) => {
    let dot = 0;
    for (let i = 0; i < q.length; i++) dot += (q[i] as number) * (k[at + i] as number);
    return dot * softmaxScale;
  });
  const output = new Float64Array(q.length);
  if (keys.length === 0) return { output, logSumExp: Number.NEGATIVE_INFINITY };
  const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  for (const [t, v] of values.entries()) {
    const weight = (weights[t] as number) / total;
    for (let i = 0; i < q.length; i++) output[i] = (output[i] as number) + weight * (v[at + i] as number);
  }
  return { output, logSumExp: max + Math.log(total) };
}

class ReferenceAttention implements AttentionBackend {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionBackend['capacity'];
  readonly lost: Promise<NodeLostError>;
  readonly #options: ReferenceAttentionOptions;
  readonly #dieAtAttend: number;
  readonly #onEnd: () => void;
  readonly #memory: KvMemory;
  /** Announced, and why their attends fail; null where they don't. */
  readonly #steps = new Map<number, { readonly step: AttentionStep; readonly failure: CapacityError | null }>();
  #lose: (error: NodeLostError) => void = () => {};
  #death: NodeLostError | null = null;
  #order: Promise<void> = Promise.resolve();
  #attends = 0;
  #busyMs = 0;
  #kvBytesRead = 0;
  #appendedTokens = 0;

  constructor(
    geometry: AttentionGeometry,
    kvDtype: KvDtype,
    options: ReferenceAttentionOptions,
    dieAtAttend: number,
    onEnd: () => void,
  ) {
    this.name = options.name ?? 'reference';
    this.geometry = geometry;
    this.kvDtype = kvDtype;
    this.#options = options;
    this.#dieAtAttend = dieAtAttend;
    this.#onEnd = onEnd;
    const blockTokens = options.blockTokens ?? 16;
    const shards = options.shards ?? [4096];
    this.#memory = new KvMemory(this.name, geometry, blockTokens, shards);
    const layers = geometry.layers / this.#memory.groups.length;
    this.capacity = {
      blockTokens,
      blockBytes: blockTokens * layers * geometry.kvHeads * geometry.headDim * 8,
      shards: shards.map((blocks) => ({ blocks })),
      workers: shards.length,
    };
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  get steps(): number {
    return this.#steps.size;
  }

  open(slot: Slot, shard: number): void {
    if (this.#death === null) this.#memory.open(slot, shard);
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    if (this.#death === null) this.#memory.fork(slot, parent, tokens);
  }

  free(slot: Slot): void {
    this.#memory.free(slot);
  }

  announce(step: AttentionStep): void {
    if (this.#death !== null) return;
    if (this.#steps.has(step.id)) throw new InputError('STEP_TAKEN', `step ${step.id} was announced before`);
    let shard = -1;
    const done = new Set<number>();
    for (const entry of step.entries) {
      const held = this.#memory.held(entry.slot);
      if (held.shard !== shard && done.has(held.shard)) throw new InputError('ORDER', 'a shard in two places');
      shard = held.shard;
      done.add(shard);
    }
    let failure: CapacityError | null = null;
    try {
      this.#memory.announce(step.entries);
    } catch (thrown) {
      if (!(thrown instanceof CapacityError)) throw thrown;
      failure = thrown;
    }
    this.#steps.set(step.id, { step, failure });
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    const { latencyMs = 0, silentDeath = false } = this.#options;
    this.#attends++;
    if (this.#death === null && this.#attends >= this.#dieAtAttend) this.#die(`at attend ${this.#attends}`);
    const run = this.#order.then(() => {
      if (this.#death !== null) throw this.#death;
      const began = performance.now();
      this.#attendNow(stepId, layer, qkv, output, logSumExp);
      this.#busyMs += performance.now() - began;
    });
    this.#order = run.catch(() => {});
    const wait = typeof latencyMs === 'number' ? latencyMs : latencyMs();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    if (this.#death !== null && silentDeath) await new Promise(() => {});
    await run;
  }

  retire(stepId: number): void {
    this.#steps.delete(stepId);
  }

  stats(): AttentionStats {
    const busyMs = this.#busyMs;
    return {
      usedBlocks: this.#memory.usedBlocks,
      openSlots: this.#memory.openSlots,
      busyMs,
      bytesSent: 0,
      bytesReceived: 0,
      roundTripMs: 0,
      kvBytesRead: this.#kvBytesRead,
      appendedTokens: this.#appendedTokens,
      forkedTokens: this.#memory.forkedTokens,
    };
  }

  allocatedBytes(): number {
    return this.#memory.usedBlocks * this.capacity.blockBytes;
  }

  async close(): Promise<void> {
    this.#memory.clear();
    this.#steps.clear();
    this.#death ??= new NodeLostError(this.name, 'closed');
    this.#onEnd();
  }

  #die(when: string): void {
    const error = new NodeLostError(this.name, `${this.name} died ${when}, as told`);
    this.#death = error;
    this.#memory.clear();
    this.#steps.clear();
    this.#onEnd();
    this.#lose(error);
  }

  #attendNow(stepId: number, layer: number, qkv: Float32Array, output: Float32Array, logSumExp?: Float32Array): void {
    const announced = this.#steps.get(stepId);
    if (announced === undefined) throw new InputError('NO_STEP', `step ${stepId} wasn't announced`);
    const { step, failure } = announced;
    if (failure !== null) throw failure;
    const { groupSize, kvHeads, headDim, softmaxScale, windows } = this.geometry;
    const width = qkvRowFloats(this.geometry);
    const heads = groupSize * kvHeads;
    const kvWidth = kvHeads * headDim;
    const rows = step.entries.reduce((sum, entry) => sum + entry.count, 0);
    if (qkv.length !== rows * width || output.length !== rows * heads * headDim) {
      throw new InputError('SHAPE', `${rows} rows, but ${qkv.length} floats in and ${output.length} out`);
    }
    const window = windows[layer] ?? 0;
    let row = 0;
    for (const { slot, position, count, visit = false } of step.entries) {
      const { tokens } = this.#memory.held(slot);
      for (let i = 0; i < count; i++, row++) {
        const at = row * width + heads * headDim;
        const own = position + i;
        if (!visit) {
          const key = roundKv(qkv.subarray(at, at + kvWidth), this.kvDtype, headDim);
          const value = roundKv(qkv.subarray(at + kvWidth, at + 2 * kvWidth), this.kvDtype, headDim);
          this.#memory.store(slot, layer, own, key, value);
          if (layer === 0) this.#appendedTokens++;
        }
        const end = visit ? tokens : own + 1;
        const start = window === 0 ? 0 : Math.max(0, own + 1 - window);
        const seen = this.#memory.see(slot, layer, start, end);
        this.#kvBytesRead += seen.keys.length * kvWidth * 2 * 4;
        for (let head = 0; head < heads; head++) {
          const q = Float64Array.from(qkv.subarray(row * width + head * headDim, row * width + (head + 1) * headDim));
          const kvAt = Math.floor(head / groupSize) * headDim;
          const result = attendOne(q, seen.keys, seen.values, kvAt, softmaxScale);
          output.set(result.output, (row * heads + head) * headDim);
          if (logSumExp !== undefined) logSumExp[row * heads + head] = result.logSumExp;
        }
      }
    }
  }
}

/** A source of reference nodes; keeps count of what is connected, so that tests can assert that nothing is left. */
export class ReferenceAttentionSource implements AttentionSource {
  readonly name: string;
  readonly #options: ReferenceAttentionOptions;
  #failuresLeft: number;
  #connects = 0;
  #live: ReferenceAttention | null = null;

  constructor(options: ReferenceAttentionOptions = {}) {
    this.name = options.name ?? 'reference';
    this.#options = options;
    this.#failuresLeft = options.failedConnects ?? 0;
  }

  /** The backend connected now. */
  get live(): AttentionBackend | null {
    return this.#live;
  }

  get connects(): number {
    return this.#connects;
  }

  /** Announced steps not yet retired. */
  get steps(): number {
    return this.#live?.steps ?? 0;
  }

  async connect(
    geometry: AttentionGeometry,
    options: { readonly kvDtype: KvDtype; readonly fingerprint: string; readonly signal?: AbortSignal },
  ): Promise<AttentionBackend> {
    if (this.#options.refusal !== undefined) throw new ProtocolError('REFUSED', this.#options.refusal);
    if (this.#failuresLeft > 0) {
      this.#failuresLeft--;
      throw new NodeLostError(this.name, `${this.name} can't be reached, as told`);
    }
    const dieAt = this.#options.dieAtAttend?.[this.#connects] ?? Number.POSITIVE_INFINITY;
    this.#connects++;
    const backend = new ReferenceAttention(geometry, options.kvDtype, this.#options, dieAt, () => {
      if (this.#live === backend) this.#live = null;
      this.#failuresLeft = this.#options.failedConnects ?? 0;
    });
    this.#live = backend;
    return backend;
  }
}
