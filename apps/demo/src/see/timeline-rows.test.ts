import { expect, test } from 'vitest';
import { attention, dense, spansOf } from './sample.fixture.ts';
import { describeSpan, extentIn, neighbour, spanAt } from './span-at.ts';
import { SpanPainter, type Surface } from './span-painter.ts';
import { SpanRing } from './span-ring.ts';
import { layoutTimeline, MAX_NODE_ROWS, timelineRowAt, trackOf } from './timeline-rows.ts';

test('timeline rows follow each other without overlap, whatever their number', () => {
  for (const nodes of [0, 1, 3, 12, 40]) {
    for (const microBatches of [0, 1, 24, 32]) {
      const { rows, height, nodesLeftOut } = layoutTimeline(nodes, microBatches);
      let end = 0;
      for (const row of rows) {
        expect(row.labelTop).toBeGreaterThanOrEqual(end);
        expect(row.height).toBeGreaterThan(0);
        end = row.top + row.height;
      }
      expect(height).toBeCloseTo(end);
      expect(height).toBeLessThan(760);
      expect(nodesLeftOut).toBe(Math.max(0, nodes - MAX_NODE_ROWS));
    }
  }
});

test('each micro-batch has a track of its own within its row', () => {
  const { rows } = layoutTimeline(1, 8);
  const row = rows.find(({ kind }) => kind === 'node');
  if (row === undefined) throw new Error('no row');
  const tracks = Array.from({ length: 8 }, (_, i) => trackOf(row, i));
  for (const [i, track] of tracks.entries()) {
    expect(track.top).toBeCloseTo(row.top + i * track.height);
    expect(timelineRowAt(rows, track.top + track.height / 2)).toBe(row);
  }
  expect(timelineRowAt(rows, -5)).toBeNull();
});

function ring(): SpanRing {
  const made = new SpanRing(16);
  made.push(
    spansOf(dense(0, 0, 2, 6), attention(0, 0, [6, 11, 12, 17]), dense(1, 1, 6, 8), attention(1, 1, [8, 13, 14, 19])),
  );
  return made;
}

const { rows } = layoutTimeline(2, 2);
const [queue, denseRow, , first, second] = rows;

test('a span is found where it is drawn', () => {
  if (queue === undefined || denseRow === undefined || first === undefined || second === undefined)
    throw new Error('rows');
  const spans = ring();
  const at = (row: typeof queue, ms: number, track: number | null = null) =>
    spanAt(spans, row, ms, { track, toleranceMs: 0.5 });
  expect(at(denseRow, 4)).toBe(0);
  expect(at(denseRow, 7)).toBe(2);
  expect(at(denseRow, 8.4)).toBe(2); // within the tolerance
  expect(at(denseRow, 9)).toBeNull();
  expect(at(queue, 1.5, 0)).toBe(0);
  expect(at(queue, 1.5, 1)).toBe(2);
  expect(at(first, 7)).toBe(1);
  expect(at(second, 7)).toBeNull();
  expect(at(second, 18)).toBe(3);
  expect(extentIn(first, spans, 3)).toBeNull();
});

test('arrow keys go from span to span of a row', () => {
  if (denseRow === undefined) throw new Error('rows');
  const spans = ring();
  expect(neighbour(spans, denseRow, 4, 1)).toBe(2);
  expect(neighbour(spans, denseRow, 7, -1)).toBe(0);
  expect(neighbour(spans, denseRow, 7, 1)).toBeNull();
});

test('a span says what it is in words', () => {
  const spans = ring();
  expect(describeSpan(spans, 1, () => 'worker 1')).toEqual({
    title: 'Micro-batch 1 · attention of layer 1 · 16 rows',
    lines: [
      'at worker 1',
      '5.00 ms on the way there, 1.00 ms computing, 5.00 ms on the way back',
      '4.0 KiB of q, k, v and o',
    ],
  });
  expect(describeSpan(spans, 0, String).lines).toEqual(['waited 2.00 ms, took 4.00 ms']);
});

test('a dense call is drawn waiting and working, an attend as way there, work and way back', () => {
  const drawn: { x: number; width: number; style: unknown; alpha: number }[] = [];
  const surface: Surface = {
    fillStyle: '',
    globalAlpha: 1,
    clearRect: () => {},
    fillRect(x, _y, width) {
      drawn.push({ x, width, style: surface.fillStyle, alpha: surface.globalAlpha });
    },
  };
  const painter = new SpanPainter(surface, rows, { scheme: 'light', hatch: () => 'hatched' }, 1);
  painter.paint(ring(), 0, 2, (ms) => ms * 10, 1000);
  expect(drawn.map(({ x, width }) => [x, width])).toEqual([
    [0, 20],
    [20, 40],
    [60, 50],
    [120, 50],
    [110, 10],
  ]);
  expect(drawn.map(({ alpha }) => alpha < 1)).toEqual([false, false, true, true, false]);
  expect(drawn[0]?.style).toBe('hatched');
  drawn.length = 0;
  painter.paint(ring(), 0, 4, (ms) => ms * 10 - 5000, 100);
  expect(drawn).toEqual([]);
});
