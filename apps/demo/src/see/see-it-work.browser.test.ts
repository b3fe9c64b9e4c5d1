import { signal } from '@preact/signals';
import { h, render } from 'preact';
import { afterEach, expect, test, vi } from 'vitest';
import type { TierReport } from '../engine/protocol.ts';
import '../styles/tokens.css';
import { dense, report, sampleAt, spansOf } from './sample.fixture.ts';
import { SampleLog } from './sample-log.ts';
import { SeeItWork } from './see-it-work.tsx';

const FIRST_WORDS_MS = 2_000;
const roots: HTMLElement[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) {
    render(null, root);
    root.remove();
  }
});

async function show(open: TierReport | null) {
  const root = document.createElement('div');
  document.body.append(root);
  roots.push(root);
  const log = new SampleLog();
  const tiers = signal(open);
  const calls: string[] = [];
  const props = {
    log,
    tiers,
    busy: signal(false),
    onRetier: ({ mode, inFlight }: TierReport['settings']) => calls.push(`retier ${mode} ${inFlight}`),
    onLoad: () => calls.push('load'),
    onStop: () => calls.push('stop'),
    onLatency: () => {},
    onOpen: () => calls.push('open'),
  };
  render(h(SeeItWork, props), root);
  await new Promise((resolve) => setTimeout(resolve, 100)); // effects come after a frame
  const control = (name: RegExp) =>
    [...root.querySelectorAll<HTMLElement>('button, label')].find(({ textContent }) => name.test(textContent));
  return { root, log, tiers, calls, control };
}

const SOME = { stats: { steps: 4, generatedTokens: 9 }, spans: spansOf(dense(0, 10, 10, 90)) };

test('before anything ran it says in a line what will be seen, and draws no empty charts', async () => {
  const { root, log } = await show(report());
  log.take({ type: 'sample', sample: sampleAt(0) });
  expect(root.textContent).toContain('Here you will see');
  expect(root.querySelector('canvas')).toBeNull();
  log.take({ type: 'sample', sample: sampleAt(200, SOME) });
  await vi.waitFor(() => expect(root.querySelectorAll('.see-chart canvas')).toHaveLength(3));
  expect(root.textContent).not.toContain('Here you will see');
});

test('the switch can be used before a model is open: the example is opened, then those tiers', async () => {
  const { tiers, calls, control, root } = await show(null);
  expect(root.querySelector<HTMLFieldSetElement>('fieldset')?.disabled).toBe(false);
  control(/^One tier$/)
    ?.querySelector('input')
    ?.click();
  expect(calls).toEqual(['open']);
  tiers.value = report();
  await vi.waitFor(() => expect(calls).toEqual(['open', 'retier one-tier 1']));
});

test('a story that began before its wall was there shows its first words', async () => {
  const { root, log, control } = await show(report({ ...report().settings, mode: 'one-tier' }));
  control(/^Write 48/)?.click();
  log.take({ type: 'ready', model: undefined as never, tiers: report() });
  // In the same task: the wall is rendered later.
  log.take({ type: 'tokens', run: 2, texts: [{ index: 0, text: ' there was a test', tokens: 4 }] });
  const first = () => root.querySelector('.see-wall li')?.textContent;
  await vi.waitFor(() => expect(first()).toBe('Once upon a time there was a test'), { timeout: FIRST_WORDS_MS });
});

test('charts that come into view are drawn at once, not with the next sample', async () => {
  const { root, log } = await show(report());
  root.style.paddingTop = '5000px';
  for (const sample of [sampleAt(0, SOME), sampleAt(200, SOME)]) log.take({ type: 'sample', sample });
  await vi.waitFor(() => expect(root.querySelectorAll('.see-legend b')).toHaveLength(5));
  await new Promise((resolve) => setTimeout(resolve, 100)); // out of sight by now
  log.take({ type: 'sample', sample: sampleAt(400, { ...SOME, stats: { steps: 9, generatedTokens: 409 } }) });
  await new Promise((resolve) => setTimeout(resolve, 500));
  const figure = () => root.querySelector('.see-legend b')?.textContent;
  expect(figure()).not.toBe('1,000');
  root.querySelector('.see-charts')?.scrollIntoView();
  await vi.waitFor(() => expect(figure()).toBe('1,000'));
});
