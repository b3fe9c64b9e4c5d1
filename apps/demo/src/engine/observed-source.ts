/**
 * An attention source that is watched: what goes to and comes from its node is counted, when the node worked on it is noted, and
 * a latency that can be changed while running is added to each round trip, half on the way there and half on the way back.
 * Everything else is the source's own, its failures too.
 */
import type {
  AttentionBackend,
  AttentionCapacity,
  AttentionLimits,
  AttentionSource,
  AttentionStats,
  AttentionStep,
  Slot,
} from '@glinthawk/attention';
import type { AttentionGeometry, KvDtype, NodeLostError } from '@glinthawk/core';
import type { Delays } from './delay.ts';
import { NodeTimesBoard } from './span-recorder.ts';

/** The injected latency, live. */
export interface Latency {
  /** Of a round trip; 0 adds nothing. */
  ms: number;
}

export class ObservedSource implements AttentionSource {
  readonly name: string;
  readonly times = new NodeTimesBoard();
  /** q, k, v out and o back, as f32, over all connections. */
  bytesOut = 0;
  bytesIn = 0;
  /** Settles as the first attempt to connect does. */
  readonly firstAttempt: Promise<void>;
  readonly #inner: AttentionSource;
  readonly #latency: Latency;
  readonly #delays: Delays;
  readonly #first = Promise.withResolvers<void>();
  #capacity: AttentionCapacity | null = null;

  constructor(inner: AttentionSource, latency: Latency, delays: Delays) {
    this.name = inner.name;
    this.#inner = inner;
    this.#latency = latency;
    this.#delays = delays;
    this.firstAttempt = this.#first.promise;
    this.firstAttempt.catch(() => {}); // whoever opens the tiers looks at it, or nobody
  }

  /** As of the latest connection; null before the first. */
  get capacity(): AttentionCapacity | null {
    return this.#capacity;
  }

  async connect(
    geometry: AttentionGeometry,
    options: Parameters<AttentionSource['connect']>[1],
  ): Promise<AttentionBackend> {
    try {
      const backend = await this.#inner.connect(geometry, options);
      this.#capacity = backend.capacity;
      this.times.clear();
      this.#first.resolve();
      return new ObservedBackend(backend, this, this.#latency, this.#delays);
    } catch (thrown) {
      this.#first.reject(thrown);
      throw thrown;
    }
  }
}

class ObservedBackend implements AttentionBackend {
  readonly name: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly capacity: AttentionCapacity;
  readonly limits?: AttentionLimits;
  readonly lost: Promise<NodeLostError>;
  readonly #inner: AttentionBackend;
  readonly #source: ObservedSource;
  readonly #latency: Latency;
  readonly #delays: Delays;
  /** Node time of the latest attend that ended. */
  #lastEndedMs = 0;

  constructor(inner: AttentionBackend, source: ObservedSource, latency: Latency, delays: Delays) {
    this.#inner = inner;
    this.#source = source;
    this.#latency = latency;
    this.#delays = delays;
    this.name = inner.name;
    this.geometry = inner.geometry;
    this.kvDtype = inner.kvDtype;
    this.capacity = inner.capacity;
    if (inner.limits !== undefined) this.limits = inner.limits;
    this.lost = inner.lost;
  }

  get draining(): string | undefined {
    return this.#inner.draining;
  }

  open(slot: Slot, shard: number): void {
    this.#inner.open(slot, shard);
  }

  fork(slot: Slot, parent: Slot, tokens: number): void {
    this.#inner.fork(slot, parent, tokens);
  }

  free(slot: Slot): void {
    this.#inner.free(slot);
  }

  announce(step: AttentionStep): void {
    this.#inner.announce(step);
  }

  async attend(
    stepId: number,
    layer: number,
    qkv: Float32Array,
    output: Float32Array,
    logSumExp?: Float32Array,
  ): Promise<void> {
    const latencyMs = this.#latency.ms;
    const sentMs = performance.now();
    this.#source.bytesOut += qkv.byteLength;
    if (latencyMs > 0) await this.#delays.until(sentMs + latencyMs / 2);
    const arrivedMs = performance.now();
    await this.#inner.attend(stepId, layer, qkv, output, logSumExp);
    const returnedMs = performance.now();
    // The way back takes what is left of the latency, so that a timer's error on the way there doesn't add up.
    if (latencyMs > 0) await this.#delays.until(returnedMs + latencyMs - (arrivedMs - sentMs));
    this.#source.bytesIn += output.byteLength;
    // A real distance lies in between, too; the halves of the measured round trip are the best guess at when work was done.
    const wayMs = Math.min(this.#inner.stats().roundTripMs, returnedMs - arrivedMs) / 2;
    const endedMs = returnedMs - wayMs;
    let beganMs = arrivedMs + wayMs;
    // A node of one worker does one thing after the other: it began when it was done with what came before.
    if (this.capacity.workers === 1) beganMs = Math.min(endedMs, Math.max(beganMs, this.#lastEndedMs));
    this.#lastEndedMs = endedMs;
    this.#source.times.put(stepId, {
      layer,
      sentMs,
      beganMs,
      endedMs,
      backMs: performance.now(),
      bytes: qkv.byteLength + output.byteLength,
    });
  }

  retire(stepId: number): void {
    this.#source.times.forget(stepId);
    this.#inner.retire(stepId);
  }

  stats(): AttentionStats {
    return this.#inner.stats();
  }

  allocatedBytes(): number {
    return this.#inner.allocatedBytes();
  }

  close(): Promise<void> {
    this.#source.times.clear();
    return this.#inner.close();
  }
}
