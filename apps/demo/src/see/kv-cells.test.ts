import { expect, test } from 'vitest';
import type { NodeSample } from '../engine/protocol.ts';
import { blocksPerCell, cellGrid, KvPlaces, slicesOf } from './kv-cells.ts';

const NODE: NodeSample = { name: 'n', connected: true, usedBlocks: 0, blocks: 10, blockBytes: 1, blockTokens: 16 };
const resident = (id: string, blocks: number) => ({ id, node: 0, blocks, tokens: blocks * 16 });

test('a sequence keeps its places while it grows, and gives them back when it ends', () => {
  const places = new KvPlaces();
  places.update(NODE, [resident('a', 2), resident('b', 1)]);
  expect([...places.owners]).toEqual([1, 1, 2, 0, 0, 0, 0, 0, 0, 0]);
  places.update(NODE, [resident('a', 3), resident('b', 2)]);
  expect([...places.owners]).toEqual([1, 1, 2, 1, 2, 0, 0, 0, 0, 0]);
  places.update(NODE, [resident('b', 2), resident('c', 3)]);
  expect([...places.owners]).toEqual([3, 3, 2, 3, 2, 0, 0, 0, 0, 0]);
  places.update(NODE, [resident('b', 1)]);
  expect([...places.owners]).toEqual([0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
});

test('more blocks than the node has, or another node, do no harm', () => {
  const places = new KvPlaces();
  places.update(NODE, [resident('a', 8), resident('b', 8)]);
  expect([...places.owners].filter((owner) => owner !== 0)).toHaveLength(10);
  places.update({ ...NODE, blocks: 4 }, [resident('b', 2)]);
  expect([...places.owners].filter((owner) => owner !== 0)).toHaveLength(2);
  places.update({ ...NODE, blocks: 0 }, []);
  expect(places.owners).toHaveLength(0);
});

test('many blocks share cells, each by its part', () => {
  expect(blocksPerCell(2500, 700)).toBe(1);
  expect(blocksPerCell(2501, 700)).toBe(2);
  expect(blocksPerCell(25_000, 700)).toBe(16);
  expect(blocksPerCell(2500, 350)).toBe(2);
  const slices: unknown[] = [];
  slicesOf(Uint32Array.of(1, 1, 0, 2, 3), 0, 4, (...slice) => slices.push(slice));
  slicesOf(Uint32Array.of(1, 1, 0, 2, 3), 1, 4, (...slice) => slices.push(slice));
  expect(slices).toEqual([
    [1, 0, 0.5],
    [2, 0.75, 1],
    [3, 0, 0.25],
  ]);
});

test('cells fit the width they have', () => {
  for (const blocks of [0, 1, 23, 100, 1000, 2400, 100_000]) {
    for (const width of [300, 1200]) {
      const cells = Math.ceil(blocks / blocksPerCell(blocks, width));
      const { columns, size, height } = cellGrid(cells, width);
      expect(columns * size).toBeLessThanOrEqual(width);
      expect(columns * (height / size)).toBeGreaterThanOrEqual(cells);
      expect(height).toBeLessThanOrEqual(176);
    }
  }
});
