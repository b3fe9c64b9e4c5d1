/** `/metrics`, read as strictly as Prometheus' text format 0.0.4 is written down. */
import type { AttentionNodeStats } from '@glinthawk/attention';
import { expect, it } from 'vitest';
import { nodeMetrics } from './node-metrics.ts';
import { IDLE_NODE } from './node-stats.fixture.ts';
import { parseExposition } from './prometheus-text.fixture.ts';

const kernels = { build: 'relaxed', relaxedSimd: true, int8: 'dot', sharedMemory: true } as const;

function metricsOf(stats: () => AttentionNodeStats) {
  return nodeMetrics({ stats, version: '1.2.3', kernels, workers: 2, memoryBytes: 2 ** 30 });
}

it('has every figure once, with its type, help and unit', async () => {
  const registry = metricsOf(() => ({
    ...IDLE_NODE,
    session: 'tcp://127.0.0.1:5',
    blocks: 10,
    usedBlocks: 3,
    busyMs: 1500,
    kvBytesRead: 2 ** 50,
    bytesReceived: 7,
    tensorBytesReceived: 6,
  }));
  expect(registry.contentType).toBe('text/plain; version=0.0.4; charset=utf-8');
  const { families, samples } = parseExposition(await registry.metrics());
  const value = (series: string) => samples.get(`glinthawk_attention_${series}`);
  expect(value('build_info{version="1.2.3",kernels="relaxed",int8="dot"}')).toBe(1);
  expect([value('kv_blocks{state="used"}'), value('kv_blocks{state="free"}')]).toEqual([3, 7]);
  expect(value('busy_seconds_total')).toBe(1.5);
  expect(value('kv_read_bytes_total')).toBe(2 ** 50);
  expect(value('wire_bytes_total{direction="received"}')).toBe(7);
  expect(value('wire_tensor_bytes_total{direction="received"}')).toBe(6);
  expect([value('session_active'), value('workers'), value('memory_limit_bytes')]).toEqual([1, 2, 2 ** 30]);
  for (const [name, type] of families) {
    if (name.startsWith('glinthawk_')) expect(name.endsWith('_total'), name).toBe(type === 'counter');
  }
  for (const name of ['process_cpu_seconds_total', 'process_resident_memory_bytes', 'process_start_time_seconds']) {
    expect(samples.get(name), name).toBeGreaterThan(0);
  }
});

it('tells what is now, each time it is asked', async () => {
  let stats = { ...IDLE_NODE, appendedTokens: 5, openSlots: 2 };
  const registry = metricsOf(() => stats);
  const read = async () => {
    const { samples } = parseExposition(await registry.metrics());
    return ['appended_tokens_total', 'open_slots'].map((name) => samples.get(`glinthawk_attention_${name}`));
  };
  expect(await read()).toEqual([5, 2]);
  stats = { ...stats, appendedTokens: 9, openSlots: 0 };
  expect(await read()).toEqual([9, 0]);
  expect(await read()).toEqual([9, 0]);
});
