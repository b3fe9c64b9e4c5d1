/**
 * Progress of a batch: a live block on a terminal, a line every few seconds elsewhere. Rates and busy shares are those of the last
 * seconds, the ETA that of the whole run: from finished requests, and before there is one from tokens, as if every request
 * generated all that it may.
 */
import type { EngineStats } from '@glinthawk/engine';
import { count, duration, percent, plural } from './format.ts';
import type { Screen } from './screen.ts';

const BLOCK_INTERVAL_MS = 250;
const LINE_INTERVAL_MS = 5_000;
/** How often the same is said again, where nothing goes on. */
const WAITING_INTERVAL_MS = 60_000;
/** Rates are taken over this long. */
const WINDOW_MS = 8_000;
const BAR_CELLS = 24;

export interface ProgressSource {
  readonly requests: number;
  /** Of these, done before this run began. */
  readonly doneBefore: number;
  /** That the others may generate. */
  readonly answerTokens: number;
  /** Attention nodes come and go by themselves, so how many there are is worth telling. */
  readonly nodesMayJoin?: boolean;
  done(): number;
  failed(): number;
  stats(): EngineStats;
}

interface Sample {
  readonly atMs: number;
  readonly stats: EngineStats;
}

export interface ProgressFigures {
  readonly done: number;
  readonly failed: number;
  readonly requests: number;
  readonly elapsedSeconds: number;
  readonly etaSeconds: number | null;
  readonly promptPerSecond: number;
  /** Of all prompt tokens so far, those whose KV stood already. */
  readonly prefixHitShare: number;
  readonly generatedPerSecond: number;
  readonly generatedTokens: number;
  readonly kvShare: number;
  readonly inFlight: number;
  readonly microBatchRows: number;
  readonly denseBusy: number;
  readonly attentionBusy: number;
  readonly nodesLost: number;
  /** Null where none can join. */
  readonly nodes: number | null;
  /** Requests that no node here can hold, and how long they are at most. */
  readonly stranded: EngineStats['stranded'];
}

export class Progress {
  readonly #source: ProgressSource;
  readonly #screen: Screen;
  readonly #startedMs = performance.now();
  #samples: Sample[] = [];
  #timer: NodeJS.Timeout | null = null;
  #waitedFor: string | null = null;
  #saidMs = 0;

  constructor(source: ProgressSource, screen: Screen) {
    this.#source = source;
    this.#screen = screen;
  }

  start(): void {
    this.#samples = [{ atMs: performance.now(), stats: this.#source.stats() }];
    const show = this.#screen.isLive
      ? () => this.#screen.block(blockLines(this.figures()))
      : () => this.#sayPlainly(this.figures());
    this.#timer = setInterval(show, this.#screen.isLive ? BLOCK_INTERVAL_MS : LINE_INTERVAL_MS);
  }

  #sayPlainly(figures: ProgressFigures): void {
    const isIdle = figures.promptPerSecond === 0 && figures.generatedPerSecond === 0;
    const waitsFor = isIdle ? joinedText(figures) : null;
    const now = performance.now();
    if (waitsFor !== null && waitsFor === this.#waitedFor && now - this.#saidMs < WAITING_INTERVAL_MS) return;
    this.#waitedFor = waitsFor;
    this.#saidMs = now;
    this.#screen.line(plainLine(figures));
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#screen.clearBlock();
  }

  figures(): ProgressFigures {
    const atMs = performance.now();
    const stats = this.#source.stats();
    this.#samples.push({ atMs, stats });
    while (this.#samples.length > 2 && atMs - (this.#samples[1]?.atMs ?? atMs) > WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0] ?? { atMs, stats };
    const windowMs = Math.max(1, atMs - first.atMs);
    const per = (name: 'promptTokens' | 'generatedTokens' | 'denseBusyMs' | 'attentionBusyMs') =>
      (stats[name] - first.stats[name]) / windowMs;
    const elapsedSeconds = (atMs - this.#startedMs) / 1000;
    const { requests, doneBefore, answerTokens } = this.#source;
    const done = this.#source.done();
    const share =
      done > doneBefore ? (done - doneBefore) / (requests - doneBefore) : stats.generatedTokens / answerTokens;
    return {
      done,
      failed: this.#source.failed(),
      requests,
      elapsedSeconds,
      etaSeconds: share > 0 ? Math.max(0, elapsedSeconds / share - elapsedSeconds) : null,
      promptPerSecond: 1000 * per('promptTokens'),
      prefixHitShare: stats.promptTokens === 0 ? 0 : stats.prefixHitTokens / stats.promptTokens,
      generatedPerSecond: 1000 * per('generatedTokens'),
      generatedTokens: stats.generatedTokens,
      kvShare: stats.totalBlocks === 0 ? 0 : stats.usedBlocks / stats.totalBlocks,
      inFlight: stats.inFlight,
      microBatchRows: stats.microBatchRows,
      denseBusy: per('denseBusyMs'),
      attentionBusy: per('attentionBusyMs'),
      nodesLost: stats.nodesLost,
      nodes: this.#source.nodesMayJoin ? stats.nodes.filter(({ connected }) => connected).length : null,
      stranded: stats.stranded,
    };
  }
}

function eta(figures: ProgressFigures): string {
  return figures.etaSeconds === null ? 'ETA –' : `ETA ${duration(figures.etaSeconds)}`;
}

function failures({ failed }: ProgressFigures): string {
  return failed === 0 ? '' : `, ${count(failed)} failed`;
}

/** The share of prompts that nobody had to compute. */
function sharedText({ prefixHitShare }: ProgressFigures): string {
  return prefixHitShare === 0 ? '' : ` (${percent(prefixHitShare)} shared)`;
}

/** Who is there, and what is waited for; null where nodes don't join. */
function joinedText({ nodes, stranded }: ProgressFigures): string | null {
  if (nodes === null) return null;
  if (nodes === 0) return 'none; waiting for one to join';
  const { sequences, tokens } = stranded;
  const waiting =
    sequences === 0
      ? ''
      : `; ${plural(sequences, 'request')} of up to ${count(tokens)} tokens ${sequences === 1 ? 'waits' : 'wait'} for a node with more KV memory`;
  return `${count(nodes)} there${waiting}`;
}

export function blockLines(figures: ProgressFigures): string[] {
  const { done, requests, nodesLost } = figures;
  const share = requests === 0 ? 1 : done / requests;
  const filled = Math.round(share * BAR_CELLS);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
  const lost = nodesLost === 0 ? '' : `   ${plural(nodesLost, 'node')} lost`;
  const joined = joinedText(figures);
  return [
    `${bar}  ${count(done)}/${count(requests)} done${failures(figures)}   ${duration(figures.elapsedSeconds)}, ${eta(figures)}`,
    `tokens/s   prompt ${count(figures.promptPerSecond)}${sharedText(figures)}   generated ${count(figures.generatedPerSecond)}   (${count(figures.generatedTokens)} so far)`,
    `busy       dense ${percent(figures.denseBusy)}   attention ${percent(figures.attentionBusy)}   KV used ${percent(figures.kvShare)}   ` +
      `in flight ${figures.inFlight} × ${figures.microBatchRows} rows${lost}`,
    ...(joined === null ? [] : [`nodes      ${joined}`]),
  ];
}

export function plainLine(figures: ProgressFigures): string {
  const joined = joinedText(figures);
  return (
    `${duration(figures.elapsedSeconds)}: ${count(figures.done)}/${count(figures.requests)} done${failures(figures)}, ` +
    `prompt ${count(figures.promptPerSecond)} tok/s${sharedText(figures)}, generated ${count(figures.generatedPerSecond)} tok/s, ${eta(figures)}, ` +
    `KV used ${percent(figures.kvShare)}, ${figures.inFlight} in flight, ` +
    `dense ${percent(figures.denseBusy)} busy, attention ${percent(figures.attentionBusy)} busy` +
    (joined === null ? '' : `, nodes: ${joined}`)
  );
}
