/**
 * How fast this machine reads memory, by the same kind of loads that attention does: 128-bit WebAssembly, in order, one large
 * buffer a thread. KV is read once a token, so this is the limit of the attention tier.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

/** Well beyond any cache. */
const BUFFER_BYTES = 256 * 2 ** 20;
const PIECE_BYTES = 16 * 2 ** 20;
const MEASURE_MS = 400;

export interface MemoryBandwidth {
  readonly threads: number;
  readonly bytesPerSecond: number;
}

/** One thread, then all of them. Takes about two seconds. */
export async function measureMemoryBandwidth(): Promise<readonly MemoryBandwidth[]> {
  const all = availableParallelism();
  const counts = all === 1 ? [1] : [1, all];
  const results: MemoryBandwidth[] = [];
  for (const threads of counts) {
    const rates = await Promise.all(Array.from({ length: threads }, measureInWorker));
    results.push({ threads, bytesPerSecond: rates.reduce((sum, rate) => sum + rate, 0) });
  }
  return results;
}

function measureInWorker(): Promise<number> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./memory-bandwidth-worker.${extension}`, import.meta.url), { execArgv: [] });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

/**
 * (module (import "e" "m" (memory 1)) (func (export "r") (param $at i32) (param $end i32) (result i32)
 *   (local $a v128) … (local $d v128)
 *   (loop  8 times: (local.set $a (v128.xor (local.get $a) (v128.load offset=… (local.get $at))))  …
 *     (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 128))) (local.get $end))))
 *   (i32x4.extract_lane 0 (v128.xor …))))
 */
function readModule(): Uint8Array<ArrayBuffer> {
  const load = (i: number) => [0x20, 2 + (i % 4), 0x20, 0, 0xfd, 0x00, 4, 16 * i, 0xfd, 0x51, 0x21, 2 + (i % 4)];
  const body = [
    ...[1, 4, 0x7b], // locals: 4 of v128
    ...[0x03, 0x40, ...[0, 1, 2, 3, 4, 5, 6, 7].flatMap(load)],
    ...[0x20, 0, 0x41, 0x80, 0x01, 0x6a, 0x22, 0, 0x20, 1, 0x49, 0x0d, 0, 0x0b],
    ...[0x20, 2, 0x20, 3, 0xfd, 0x51, 0x20, 4, 0xfd, 0x51, 0x20, 5, 0xfd, 0x51, 0xfd, 0x1b, 0, 0x0b],
  ];
  const section = (id: number, content: readonly number[]) => [id, ...leb(content.length), ...content];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]),
    ...section(2, [1, 1, 0x65, 1, 0x6d, 0x02, 0x00, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x72, 0, 0]),
    ...section(10, [1, ...leb(body.length), ...body]),
  ]);
}

function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)];
}

/** In a worker: bytes per second of this thread. */
export function measureThisThread(): number {
  const memory = new WebAssembly.Memory({ initial: BUFFER_BYTES / 65_536 });
  new Uint8Array(memory.buffer).fill(1); // Untouched pages are all the same page of zeros.
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(readModule()), { e: { m: memory } });
  const read = exports.r as (at: number, end: number) => number;
  const pass = () => {
    for (let at = 0; at < BUFFER_BYTES; at += PIECE_BYTES) read(at, at + PIECE_BYTES);
  };
  pass(); // compiles it well
  const started = performance.now();
  let passes = 0;
  let elapsedMs = 0;
  while (elapsedMs < MEASURE_MS) {
    pass();
    passes++;
    elapsedMs = performance.now() - started;
  }
  return (1000 * passes * BUFFER_BYTES) / elapsedMs;
}
