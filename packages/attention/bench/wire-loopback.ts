/**
 * What the wire costs on one machine: an attention node in another process whose backend does nothing, so that all time is
 * framing, sockets and copies. Prints the round trip of one row and the throughput of large ATTENDs, beside a bare TCP socket
 * that sends and receives as many bytes, and the processor time that this process spent on a megabyte.
 *
 *     node packages/attention/bench/wire-loopback.ts
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { cpus } from 'node:os';
import type { AttentionBackend } from '@glinthawk/attention';
import { remoteSource, serveAttention } from '@glinthawk/attention/node';
import { type AttentionGeometry, outputRowFloats, qkvRowFloats } from '@glinthawk/core';

// One layer of Llama-3-8B: a row is 24 KiB out and 16 KiB back in f32.
const geometry: AttentionGeometry = {
  layers: 1,
  kvHeads: 8,
  groupSize: 4,
  headDim: 128,
  softmaxScale: 1,
  windows: [0],
  maxContextTokens: 8192,
};

if (process.argv[2] === 'serve') {
  const server = await serveAttention({
    host: '127.0.0.1',
    port: 0,
    createBackend: async (shape, { kvDtype }): Promise<AttentionBackend> => ({
      name: 'idle',
      geometry: shape,
      kvDtype,
      capacity: { blockTokens: 64, blockBytes: 1, shards: [{ blocks: 1000 }] },
      lost: new Promise(() => {}),
      open() {},
      free() {},
      announce() {},
      attend: () => Promise.resolve(),
      retire() {},
      stats: () => ({ usedBlocks: 0, openSlots: 0, busyMs: 0, bytesSent: 0, bytesReceived: 0, roundTripMs: 0 }),
      allocatedBytes: () => 0,
      close: () => Promise.resolve(),
    }),
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
  await measureBare(Number(barePort));
  for (const url of urls) {
    for (const wireDtype of ['f32', 'f16'] as const) await measure(url, wireDtype);
  }
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
  console.log(
    `bare TCP socket: ${(megabytes / seconds).toFixed(0)} MB/s both ways, ${((cpuMs() - cpu) / megabytes).toFixed(2)} CPU ms/MB`,
  );
  socket.destroy();
}

async function measure(url: string, wireDtype: 'f32' | 'f16'): Promise<void> {
  const attention = await remoteSource(url, { wireDtype }).connect(geometry, { kvDtype: 'f16', fingerprint: 'bench' });
  const slot = { index: 0, generation: 1 };
  attention.open(slot, 0);
  const run = async (rows: number, inFlight: number, ms: number) => {
    const lanes = Array.from({ length: inFlight }, (_, lane) => {
      attention.announce({ id: lane, entries: [{ slot, position: 0, count: rows }] });
      const qkv = new Float32Array(rows * qkvRowFloats(geometry)).fill(1);
      return { lane, qkv, output: new Float32Array(rows * outputRowFloats(geometry)) };
    });
    let attends = 0;
    const times: number[] = [];
    const begun = performance.now();
    const until = begun + ms;
    await Promise.all(
      lanes.map(async ({ lane, qkv, output }) => {
        while (performance.now() < until) {
          const start = performance.now();
          await attention.attend(lane, 0, qkv, output);
          times.push(performance.now() - start);
          attends++;
        }
      }),
    );
    const seconds = (performance.now() - begun) / 1000;
    for (const { lane } of lanes) attention.retire(lane);
    times.sort((a, b) => a - b);
    return { attends, seconds, medianMs: times[times.length >> 1] as number };
  };
  await run(1, 1, 300);
  const one = await run(1, 1, 1000);
  const { bytesSent, bytesReceived } = attention.stats();
  const rows = 256;
  const cpu = cpuMs();
  const many = await run(rows, 4, 2000);
  const spent = cpuMs() - cpu;
  const after = attention.stats();
  const megabytes = (after.bytesSent - bytesSent + after.bytesReceived - bytesReceived) / 1e6;
  console.log(
    `${url.split(':')[0]?.padEnd(4)} ${wireDtype}: 1 row ${(one.medianMs * 1000).toFixed(0)} µs round trip; ` +
      `${rows} rows × 4 in flight ${(megabytes / many.seconds).toFixed(0)} MB/s both ways, ${(spent / megabytes).toFixed(2)} CPU ms/MB, ` +
      `${((rows * many.attends) / many.seconds).toFixed(0)} rows/s, ${many.medianMs.toFixed(1)} ms each`,
  );
  await attention.close();
}
