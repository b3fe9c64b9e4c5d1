/**
 * The workers of one backend, seen from the caller's thread. Requests that each worker answers are matched in order; a stage goes to
 * all and is answered once. When a worker dies, or fails inside a stage (the others then wait at a barrier for ever), the whole
 * pool is lost: everything pending is rejected and all threads are ended.
 */
import { CapacityError, DeviceError } from '@glinthawk/core';
import { BARRIER_BYTES } from './barrier.ts';
import type { Sections } from './batch-memory.ts';
import type { Reply, Request } from './messages.ts';
import type { DenseWasmPlatform, WorkerHandle } from './platform.ts';

type DoneReply = Extract<Reply, { type: 'done' }>;
type FailedReply = Extract<Reply, { type: 'failed' }>;
type StageRequest = Extract<Request, { type: 'stage' }>;

interface Pending<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

interface Member {
  readonly handle: WorkerHandle;
  readonly pending: Pending<DoneReply>[];
  heapBytes: number;
  liveTensors: number;
}

export class WorkerPool {
  readonly lost: Promise<DeviceError>;
  readonly shared: boolean;
  readonly #barrier: SharedArrayBuffer | null;
  readonly #members: readonly Member[];
  readonly #stages = new Map<number, Pending<Sections | null>>();
  readonly #resolveLost: (error: DeviceError) => void;
  #ended: DeviceError | null = null;

  /** @param shared whether workers share memory; if not there may be one only */
  constructor(platform: DenseWasmPlatform, workers: number, shared: boolean) {
    const { promise, resolve } = Promise.withResolvers<DeviceError>();
    this.lost = promise;
    this.#resolveLost = resolve;
    this.shared = shared;
    this.#barrier = shared ? new SharedArrayBuffer(BARRIER_BYTES) : null;
    this.#members = Array.from({ length: workers }, (_, worker) => ({
      handle: platform.startWorker({
        onReply: (reply) => this.#onReply(worker, reply),
        onLost: (reason) =>
          this.#fail(new DeviceError('DENSE_WORKER_LOST', `dense worker ${worker} is gone: ${reason}`)),
      }),
      pending: [],
      heapBytes: 0,
      liveTensors: 0,
    }));
  }

  get size(): number {
    return this.#members.length;
  }

  get barrier(): SharedArrayBuffer | null {
    return this.#barrier;
  }

  heapBytes(): number {
    return this.#members.reduce((sum, { heapBytes }) => sum + heapBytes, 0);
  }

  /** Allocations alive in all workers' heaps, as of their last answers. */
  liveTensors(): number {
    return this.#members.reduce((sum, { liveTensors }) => sum + liveTensors, 0);
  }

  /** Sends a request to one worker, which answers it. @throws DeviceError, CapacityError */
  request(worker: number, request: Request, transfer: ArrayBuffer[] = []): Promise<DoneReply> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    const member = this.#member(worker);
    const { promise, resolve, reject } = Promise.withResolvers<DoneReply>();
    member.pending.push({ resolve, reject });
    member.handle.post(request, transfer);
    return promise;
  }

  /** The same request to every worker. */
  async requestAll(request: Request): Promise<readonly DoneReply[]> {
    return settled(this.#members.map((_, worker) => this.request(worker, request)));
  }

  /** Runs a stage on all workers. One at a time for a batch; those of different batches queue. @throws DeviceError */
  run(request: StageRequest, transfer: ArrayBuffer[]): Promise<Sections | null> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    const { promise, resolve, reject } = Promise.withResolvers<Sections | null>();
    this.#stages.set(request.batch, { resolve, reject });
    for (const { handle } of this.#members) handle.post(request, transfer);
    return promise;
  }

  /** Sends a request that nobody answers. */
  notify(request: Request): void {
    if (this.#ended !== null) return;
    for (const { handle } of this.#members) handle.post(request, []);
  }

  /** Ends the threads; calls under way are rejected. May be called again. */
  async close(): Promise<void> {
    await this.#end(new DeviceError('DENSE_CLOSED', 'the dense backend was closed'));
  }

  #onReply(worker: number, reply: Reply): void {
    const member = this.#member(worker);
    switch (reply.type) {
      case 'done':
        member.heapBytes = reply.heapBytes;
        member.liveTensors = reply.liveTensors;
        member.pending.shift()?.resolve(reply);
        return;
      case 'stage-done': {
        const stage = this.#stages.get(reply.batch);
        this.#stages.delete(reply.batch);
        stage?.resolve(reply.sections);
        return;
      }
      case 'failed': {
        if (reply.request === 'stage' || reply.request === 'close') {
          this.#fail(new DeviceError(reply.code, `dense worker ${worker} failed: ${reply.message}`));
        } else member.pending.shift()?.reject(errorOf(reply));
        return;
      }
      default:
        reply satisfies never;
    }
  }

  #fail(error: DeviceError): void {
    if (this.#ended !== null) return;
    this.#resolveLost(error);
    void this.#end(error);
  }

  async #end(error: DeviceError): Promise<void> {
    if (this.#ended === null) {
      this.#ended = error;
      for (const stage of this.#stages.values()) stage.reject(error);
      this.#stages.clear();
      for (const member of this.#members) {
        for (const pending of member.pending.splice(0)) pending.reject(error);
        member.heapBytes = 0;
        member.liveTensors = 0;
      }
    }
    await Promise.all(this.#members.map(({ handle }) => handle.terminate()));
  }

  #member(worker: number): Member {
    return this.#members[worker] as Member;
  }
}

function errorOf({ kind, code, message, hint }: FailedReply): Error {
  const options = hint === undefined ? {} : { hint };
  return kind === 'capacity' ? new CapacityError(code, message, options) : new DeviceError(code, message, options);
}

/** Promise.all, but waiting for all before it throws, so that no rejection is left unhandled. */
async function settled<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(promises);
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}
