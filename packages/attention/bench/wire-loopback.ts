/**
 * What the wire costs on one machine: an attention node in another process whose backend does nothing, so that all time is
 * framing, sockets, copies and rounding. Prints, for each transport and row dtype, the round trip of one row, the throughput of
 * many rows beside a bare TCP socket's, the processor time that this process spent on a megabyte, how often the node copied
 * what it received, and which share of all bytes is not rows, at 32 rows a step.
 *
 *     node packages/attention/bench/wire-loopback.ts
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { cpus } from 'node:os';
import type { AttentionBackend, StagedAttention, StagedRows } from '@glinthawk/attention';
import { type RemoteAttention, remoteSource, serveAttention } from '@glinthawk/attention/node';
import {
  type AttentionGeometry,
  type KvDtype,
  outputRowBytes,
  outputRowFloats,
  qkvRowBytes,
  qkvRowFloats,
  ROW_DTYPES,
  type RowDtype,
} from '@glinthawk/core';

// Llama-3-8B: a row of a layer is 24 KiB out and 16 KiB back in f32.
const geometry: AttentionGeometry = {
  layers: 32,
  kvHeads: 8,
  groupSize: 4,
  headDim: 128,
  softmaxScale: 1,
  windows: new Array<number>(32).fill(0),
  maxContextTokens: 8192,
};

/** Takes rows into shared memory, as a pool of workers does, and answers at once. */
function idleBackend(shape: AttentionGeometry, kvDtype: KvDtype, rowDtype: RowDtype): StagedAttention {
  const staging = new Map<number, StagedRows>();
  return {
    name: 'idle',
    geometry: shape,
    kvDtype,
    rowDtype,
    capacity: { blockTokens: 32, blockBytes: 32 * 32 * 8 * 128 * 4, shards: [{ blocks: 1000 }], workers: 1 },
    lost: new Promise(() => {}),
    open() {},
    fork() {},
    free() {},
    announce({ id, entries }) {
      const rows = entries.reduce((sum, { count }) => sum + count, 0);
      const qkv = new Uint8Array(new SharedArrayBuffer(rows * qkvRowBytes(shape, rowDtype)));
      const output = new Uint8Array(new SharedArrayBuffer(rows * outputRowBytes(shape, rowDtype)));
      staging.set(id, { qkv: [qkv], output: [output] });
    },
    staged: (id) => staging.get(id) as StagedRows,
    attendStaged: () => Promise.resolve(),
    attend: () => Promise.resolve(),
    retire: (id) => void staging.delete(id),
    stats: () => ({
      usedBlocks: 0,
      openSlots: 0,
      busyMs: 0,
      kvBytesRead: 0,
      appendedTokens: 0,
      forkedTokens: 0,
      bytesSent: 0,
      bytesReceived: 0,
      roundTripMs: 0,
    }),
    allocatedBytes: () => 0,
    close: () => Promise.resolve(),
  };
}

const slot = { index: 0, generation: 1 };

if (process.argv[2] === 'serve') {
  const server = await serveAttention({
    host: '127.0.0.1',
    port: 0,
    createBackend: async (shape, { kvDtype, rowDtype }) => idleBackend(shape, kvDtype, rowDtype),
  });
  const bare = createServer((socket) => socket.on('data', (chunk) => socket.write(chunk)).on('error', () => {}));
  bare.listen(0, '127.0.0.1');
  await once(bare, 'listening');
  const barePort = String((bare.address() as AddressInfo).port);
  process.send?.([barePort, server.listener.url, server.listener.webSocketUrl]);
  process.on('disconnect', () => process.exit());
} else {
  const child = fork(new URL(import.meta.url).pathname, ['serve']);
  const [[barePort, ...urls]] = (await once(child, 'message')) as [string[]];
  console.log(
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model}, loopback, node in a process of its own`,
  );
  console.log(
    '              1 row, µs   256 rows × 4, MB/s   CPU ms/MB   CPU µs/row   node copies   beside rows, at 32 rows',
  );
  await measureBare(Number(barePort));
  for (const url of urls) for (const dtype of ROW_DTYPES) await measure(url, dtype);
  child.disconnect();
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** The limit: Node's own socket, echoed. */
async function measureBare(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  let received = 0;
  socket.on('data', (chunk) => {
    received += chunk.length;
  });
  const block = new Uint8Array(4 << 20);
  let sent = 0;
  const cpu = cpuMs();
  const begun = performance.now();
  while (performance.now() < begun + 2000) {
    await new Promise((resolve) => socket.write(block, resolve));
    sent += block.length;
  }
  while (received < sent) await new Promise((resolve) => setTimeout(resolve, 1));
  const seconds = (performance.now() - begun) / 1000;
  const megabytes = (sent + received) / 1e6;
  const rate = (megabytes / seconds).toFixed(0);
  console.log(`bare socket ${rate.padStart(32)} ${((cpuMs() - cpu) / megabytes).toFixed(2).padStart(11)}`);
  socket.destroy();
}

interface Run {
  readonly attends: number;
  readonly seconds: number;
  readonly cpuMs: number;
  readonly medianMs: number;
}

/** Steps of all layers, `inFlight` of them at once, for as long as `ms`. */
async function run(attention: AttentionBackend, rows: number, inFlight: number, ms: number): Promise<Run> {
  const times: number[] = [];
  const lanes = Array.from({ length: inFlight }, () => ({
    qkv: Float32Array.from({ length: rows * qkvRowFloats(geometry) }, (_, i) => (i % 251) / 125 - 1),
    output: new Float32Array(rows * outputRowFloats(geometry)),
  }));
  let id = 0;
  const cpu = cpuMs();
  const begun = performance.now();
  const until = begun + ms;
  const work = async ({ qkv, output }: (typeof lanes)[number]) => {
    while (performance.now() < until) {
      const step = id++;
      attention.announce({ id: step, entries: [{ slot, position: 0, count: rows }] });
      for (let layer = 0; layer < geometry.layers; layer++) {
        const start = performance.now();
        await attention.attend(step, layer, qkv, output);
        times.push(performance.now() - start);
      }
      attention.retire(step);
    }
  };
  await Promise.all(lanes.map(work));
  const seconds = (performance.now() - begun) / 1000;
  const spentMs = cpuMs() - cpu;
  times.sort((a, b) => a - b);
  return { attends: times.length, seconds, cpuMs: spentMs, medianMs: times[times.length >> 1] as number };
}

async function measure(url: string, wireDtype: RowDtype): Promise<void> {
  const source = remoteSource(url, { wireDtype });
  const attention = (await source.connect(geometry, { kvDtype: 'f16', fingerprint: 'bench' })) as RemoteAttention;
  attention.open(slot, 0);
  const bytes = () => attention.stats().bytesSent + attention.stats().bytesReceived;
  const rowBytes = qkvRowBytes(geometry, wireDtype) + outputRowBytes(geometry, wireDtype);
  await run(attention, 1, 1, 300);
  const one = await run(attention, 1, 1, 1000);
  let before = bytes();
  const many = await run(attention, 256, 4, 2000);
  const megabytes = (bytes() - before) / 1e6;
  before = bytes();
  const few = await run(attention, 32, 1, 500);
  const all = bytes() - before;
  const beside = 1 - (few.attends * 32 * rowBytes) / all;
  const { tensorBytesReceived, bytesCopied } = await attention.nodeStats();
  console.log(
    `${url.split(':')[0]?.padEnd(5)}${wireDtype.padEnd(7)}` +
      (one.medianMs * 1000).toFixed(0).padStart(11) +
      (megabytes / many.seconds).toFixed(0).padStart(21) +
      (many.cpuMs / megabytes).toFixed(2).padStart(12) +
      ((many.cpuMs * 1000) / (256 * many.attends)).toFixed(1).padStart(13) +
      (bytesCopied / tensorBytesReceived).toFixed(2).padStart(14) +
      `${(100 * beside).toFixed(3)} %`.padStart(26),
  );
  await attention.close();
}
