/** What an attention node says of itself in `/metrics`: its statistics as Prometheus metrics, read when they are asked for. */
import type { AttentionKernelInfo, AttentionNodeStats } from '@glinthawk/attention';
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';

export interface NodeMetricsOptions {
  readonly stats: () => AttentionNodeStats;
  readonly version: string;
  readonly kernels: AttentionKernelInfo;
  /** What `--workers` and `--memory` came to. */
  readonly workers: number;
  readonly memoryBytes: number;
}

const PREFIX = 'glinthawk_attention_';

/** With the process's own figures (`process_…`, `nodejs_…`). */
export function nodeMetrics({ stats, version, kernels, workers, memoryBytes }: NodeMetricsOptions): Registry {
  const registry = new Registry();
  const registers = [registry];
  const gauge = (name: string, help: string, read: (stats: AttentionNodeStats) => number) =>
    new Gauge({
      name: PREFIX + name,
      help,
      registers,
      collect() {
        this.set(read(stats()));
      },
    });
  const counter = (name: string, help: string, read: (stats: AttentionNodeStats) => number) =>
    new Counter({
      name: PREFIX + name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(read(stats()));
      },
    });
  const byDirection = (name: string, help: string, read: (stats: AttentionNodeStats) => readonly [number, number]) =>
    new Counter({
      name: PREFIX + name,
      help,
      registers,
      labelNames: ['direction'],
      collect() {
        const [received, sent] = read(stats());
        this.reset();
        this.inc({ direction: 'received' }, received);
        this.inc({ direction: 'sent' }, sent);
      },
    });

  new Gauge({
    name: `${PREFIX}build_info`,
    help: 'Always 1; which version this is and which kernels it chose.',
    registers,
    labelNames: ['version', 'kernels', 'int8'],
  }).set({ version, kernels: kernels.build, int8: kernels.int8 }, 1);
  gauge('workers', 'Threads that kernels run on.', () => workers);
  gauge('memory_limit_bytes', 'What KV may take at most.', () => memoryBytes);
  gauge('allocated_bytes', 'Memory held now, of KV and of frames under way.', ({ allocatedBytes }) => allocatedBytes);
  new Gauge({
    name: `${PREFIX}kv_blocks`,
    help: "KV blocks of the session's cache.",
    registers,
    labelNames: ['state'],
    collect() {
      const { blocks, usedBlocks } = stats();
      this.set({ state: 'used' }, usedBlocks);
      this.set({ state: 'free' }, Math.max(0, blocks - usedBlocks));
    },
  });
  gauge('open_slots', 'Sequences that have KV here.', ({ openSlots }) => openSlots);
  gauge('pending_attends', 'Requests for attention that wait or are being computed.', (s) => s.pendingAttends);
  gauge('connections', 'Connections, in their handshake too.', ({ connections }) => connections);
  gauge('session_active', 'Whether an engine is connected: 0 or 1.', ({ session }) => (session === null ? 0 : 1));
  gauge('draining', 'Whether the node is on its way out: 0 or 1.', ({ draining }) => (draining ? 1 : 0));
  counter('sessions_total', 'Engines served, those that came again counted again.', (s) => s.sessionsServed);
  counter('refused_total', 'Connections turned away.', ({ refused }) => refused);
  counter('busy_seconds_total', 'Time in which kernels ran, summed over workers.', ({ busyMs }) => busyMs / 1000);
  counter('kv_read_bytes_total', 'Keys and values that attention read.', ({ kvBytesRead }) => kvBytesRead);
  counter('appended_tokens_total', 'Tokens whose keys and values were stored.', (s) => s.appendedTokens);
  counter('forked_tokens_total', 'Tokens taken over from another sequence instead.', (s) => s.forkedTokens);
  byDirection('wire_bytes_total', 'Bytes over connections.', (s) => [s.bytesReceived, s.bytesSent]);
  byDirection('wire_tensor_bytes_total', 'Those of them that are rows of q, k, v and o.', (s) => [
    s.tensorBytesReceived,
    s.tensorBytesSent,
  ]);
  counter(
    'copied_bytes_total',
    'Tensor bytes copied between socket and WASM memory.',
    ({ bytesCopied }) => bytesCopied,
  );
  collectDefaultMetrics({ register: registry });
  return registry;
}
