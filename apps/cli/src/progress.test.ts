import type { EngineStats } from '@glinthawk/engine';
import { describe, expect, it } from 'vitest';
import { bytes, duration, millions } from './format.ts';
import { blockLines, Progress, type ProgressFigures, plainLine } from './progress.ts';
import { Screen } from './screen.ts';

const figures: ProgressFigures = {
  done: 212,
  failed: 2,
  requests: 400,
  elapsedSeconds: 47,
  etaSeconds: 41.6,
  promptPerSecond: 1240.4,
  prefixHitShare: 0,
  generatedPerSecond: 860,
  generatedTokens: 18_204,
  kvShare: 0.37,
  inFlight: 3,
  microBatchRows: 12,
  denseBusy: 0.81,
  attentionBusy: 0.44,
  nodesLost: 1,
  nodes: null,
  stranded: { sequences: 0, tokens: 0 },
};

function screenOf(columns: number, quiet: boolean): { readonly screen: Screen; readonly written: () => string } {
  const parts: string[] = [];
  const write = (text: string) => parts.push(text) > 0;
  return { screen: new Screen({ quiet, stream: { isTTY: true, columns, write } }), written: () => parts.join('') };
}

describe('progress', () => {
  it('is a block of three lines on a terminal', () => {
    expect(blockLines(figures)).toEqual([
      '█████████████░░░░░░░░░░░  212/400 done, 2 failed   0:47, ETA 0:42',
      'tokens/s   prompt 1,240   generated 860   (18,204 so far)',
      'busy       dense 81 %   attention 44 %   KV used 37 %   in flight 3 × 12 rows   1 node lost',
    ]);
  });

  it('is a line elsewhere', () => {
    expect(plainLine({ ...figures, etaSeconds: null, failed: 0 })).toBe(
      '0:47: 212/400 done, prompt 1,240 tok/s, generated 860 tok/s, ETA –, KV used 37 %, 3 in flight, ' +
        'dense 81 % busy, attention 44 % busy',
    );
  });

  it('says how much of the prompts was shared', () => {
    const shared = { ...figures, prefixHitShare: 0.625 };
    expect(blockLines(shared)[1]).toBe('tokens/s   prompt 1,240 (63 % shared)   generated 860   (18,204 so far)');
    expect(plainLine(shared)).toContain('prompt 1,240 tok/s (63 % shared), generated 860 tok/s');
  });

  it('tells of nodes where they join: how many, and what none of them can hold', () => {
    const none = { ...figures, nodes: 0 };
    expect(blockLines(none)[3]).toBe('nodes      none; waiting for one to join');
    const small = { ...figures, nodes: 2, stranded: { sequences: 3, tokens: 1200 } };
    expect(plainLine(small)).toMatch(
      /, nodes: 2 there; 3 requests of up to 1,200 tokens wait for a node with more KV memory$/,
    );
  });

  it('has a time left as soon as there are tokens, then from finished requests', async () => {
    let done = 2;
    const stats = { generatedTokens: 0 } as EngineStats;
    const source = { requests: 12, doneBefore: 2, answerTokens: 400, done: () => done, failed: () => 0 };
    const etaAfter = (generatedTokens: number) => {
      const progress = new Progress(
        { ...source, stats: () => ({ ...stats, generatedTokens }) },
        screenOf(80, false).screen,
      );
      const until = performance.now() + 5;
      while (performance.now() < until);
      const { etaSeconds, elapsedSeconds } = progress.figures();
      return etaSeconds === null ? null : etaSeconds / elapsedSeconds;
    };
    expect(etaAfter(0)).toBeNull();
    expect(etaAfter(100)).toBeCloseTo(3);
    done = 7;
    expect(etaAfter(100)).toBeCloseTo(1);
  });

  it('draws over itself, and lines stand above it', () => {
    const { screen, written } = screenOf(10, false);
    screen.block(['one', 'two two two']);
    screen.block(['three']);
    screen.line('said');
    expect(written()).toBe('\x1b[2Kone\n\x1b[2Ktwo two t\n\x1b[0J\x1b[2F\x1b[2Kthree\n\x1b[0J\x1b[1F\x1b[0Jsaid\n');
  });

  it('is silent when quiet, but for what matters', () => {
    const { screen, written } = screenOf(80, true);
    screen.block(['block']);
    screen.line('line');
    const logger = screen.logger(false);
    logger.info('info');
    logger.debug('debug');
    logger.warn('careful', { node: 'a' });
    expect(written()).toBe('warning: careful (node: a)\n');
  });
});

describe('numbers', () => {
  it('read well', () => {
    expect([0, 1023, 1536, 2 ** 30 * 3.9, 2 ** 40].map(bytes)).toEqual([
      '0 bytes',
      '1023 bytes',
      '1.5 KiB',
      '3.9 GiB',
      '1.0 TiB',
    ]);
    expect([0, 59.6, 725, 10_812].map(duration)).toEqual(['0:00', '1:00', '12:05', '3:00:12']);
    expect([12, 1_443_456, 135e6, 70e9].map(millions)).toEqual(['12', '1.44 M', '135 M', '70 B']);
  });
});
