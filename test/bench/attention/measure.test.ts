import { expect, test } from 'vitest';
import { type Ceilings, type Result, sharesOf } from './measure.ts';
import { parseOptions, placementsOf, UsageError } from './options.ts';
import { FRAMED, placementName } from './placement.ts';
import { formatTable } from './table.ts';
import { workName } from './work.ts';

const ceilings = (read: number): Ceilings => ({
  read,
  readTwo: read / 2,
  fma: 60,
  dotI16: 100,
  dotI8: 240,
  undisturbed: true,
});

function result(reads: readonly (readonly [number, number])[]): Result {
  return {
    work: { headDim: 128, group: 1, kvHeads: 1, context: 1000, sequences: 1, chunk: 1, place: 'dram' },
    kvDtype: 'f32',
    threads: 1,
    layers: 1,
    placement: FRAMED,
    blockTokens: 64,
    pageBytes: 65536,
    kvMegabytes: 1,
    bytes: 24e6,
    operations: 12e6,
    samples: reads.map(([before, after]) => ({
      milliseconds: 1,
      onProcessor: 1,
      before: ceilings(before),
      after: ceilings(after),
    })),
  };
}

test('the share is of the ceiling that binds', () => {
  const { figures, kept } = sharesOf(result(Array(5).fill([30, 30])), 0.1);
  expect(kept).toBe(5);
  expect(figures?.binds).toBe('read');
  expect(figures?.roofline.median).toBeCloseTo(24 / 30);
  expect(figures?.ofOperations).toBeCloseTo(12 / 60);
});

test('repetitions whose ceilings moved are void, and from too few there is no share', () => {
  const steady = Array(5).fill([30, 29]) as [number, number][];
  expect(sharesOf(result([...steady, [30, 20], [15, 30]]), 0.1)).toMatchObject({ kept: 5 });
  expect(sharesOf(result([...steady.slice(1), [30, 20]]), 0.1)).toEqual({ kept: 4, figures: null });
  const disturbed = result(steady).samples.map((sample, i) => (i === 0 ? { ...sample, onProcessor: 0.8 } : sample));
  expect(sharesOf({ ...result(steady), samples: disturbed }, 0.1)).toEqual({ kept: 4, figures: null });
});

test('flags choose shapes, and wrong ones are named', () => {
  const { works, threads, kvDtypes } = parseOptions([
    '--shape',
    'd=64,g=3,kv=3,rows=7',
    '--threads',
    '1,2',
    '--dtype',
    'int8',
  ]);
  expect(works).toEqual([{ headDim: 64, group: 3, kvHeads: 3, context: 2048, sequences: 7, chunk: 1, place: 'dram' }]);
  expect(threads).toEqual([1, 2]);
  expect(kvDtypes).toEqual(['int8']);
  for (const args of [
    ['--shape', 'd=0'],
    ['--shape', 'x=1'],
    ['--shape', 'ctx=8,chunk=9'],
    ['--dtype', 'f8'],
    ['--threads', '0'],
    ['--peers', 'gpu'],
    ['--scattered', '101'],
    ['--scattered', 'some'],
    ['--fast'],
  ]) {
    expect(() => parseOptions(args)).toThrow(UsageError);
  }
  const { placements } = parseOptions(['--scattered', '0,25,rotated']);
  expect(placements?.map(placementName)).toEqual(['0 %', '25 %', 'rotated']);
  expect(parseOptions(['--peers', '--quick']).peers).toContain('native');
  expect(parseOptions(['--cache']).works.every(({ place }) => place === 'cache')).toBe(true);
});

test('of some shapes a memory that was full for long is shown too', () => {
  const options = parseOptions([]);
  const shown = options.works.filter((work) => placementsOf(work, options).length === 2);
  expect(shown.map(workName)).toEqual(['d128 g1 kv8 ctx 2048 x16', 'd128 g8 kv8 ctx 2048 x16']);
});

test('tables line up, in text and in Markdown', () => {
  const table = {
    heads: ['KV', 'GB/s'],
    rows: [
      ['f32', '9'],
      ['int8', '12.5'],
    ],
  };
  expect(formatTable(table, false)).toBe('KV    GB/s\n----------\nf32      9\nint8  12.5');
  expect(formatTable(table, true)).toBe('| KV   | GB/s |\n|---|---:|\n| f32  |    9 |\n| int8 | 12.5 |');
});
