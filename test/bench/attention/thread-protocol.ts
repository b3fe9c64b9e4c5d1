/**
 * Between a team and its threads: what a thread is started with, and the words of shared memory by which it is told what to do
 * and says when it did it.
 */
import type { KvDtype } from '@glinthawk/core';
import type { PageLayout } from '../../../packages/attention/src/page-layout.ts';
import type { Placement } from './placement.ts';
import type { Share, Work, WorkData } from './work.ts';

export interface ThreadData {
  readonly module: WebAssembly.Module;
  readonly peaks: WebAssembly.Module;
  readonly work: Work;
  readonly share: Share;
  readonly data: WorkData;
  readonly kvDtype: KvDtype;
  readonly layers: number;
  readonly blockTokens?: number | undefined;
  readonly placement: Placement;
  /** Sequences of one step: a command attends so many at a time, and the share has a whole number of such pieces. */
  readonly pieceSequences: number;
  readonly control: SharedArrayBuffer;
  readonly index: number;
  readonly threads: number;
  readonly output: Float32Array; // [sequences, chunk, kvHeads, group, headDim] of all threads
}

/** Int32 indices in `control`; then of each thread when it began, when it ended and how long it waited for a processor, in ms. */
export const COMMAND = 0; // grows by one with each command
export const DONE = 1;
export const ARRIVED = 2;
export const OPERATION = 3;
export const ARGUMENT = 4;
export const TIMES = 4; // Float64 index
export const TIMES_EACH = 3;
export const operations = ['attend', 'read', 'readTwo', 'fma', 'dotI16', 'dotI8', 'output'] as const;
export type Operation = (typeof operations)[number];

export interface ThreadInfo {
  readonly layout: PageLayout;
  readonly kvBytes: number;
  /** The dtype as the kernels' Config has it. */
  readonly dtypeCode: number;
}
