/** Sampling as the visitor sets it: defaults from the model, ranges, and reading what was typed. */
import type { GenerationDefaults } from '@glinthawk/model';
import type { SamplingControls } from '../engine/protocol.ts';

export const SAMPLING: SamplingControls = {
  temperature: 0.8,
  topP: 0.95,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  seed: null,
  maxTokens: 256,
  stop: [],
};

export type NumberField = 'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty' | 'maxTokens';

export interface Range {
  readonly label: string;
  readonly low: number;
  readonly high: number;
  readonly step: number;
  readonly hint: string;
}

export const SAMPLING_RANGES: Readonly<Record<NumberField, Range>> = {
  temperature: { label: 'Temperature', low: 0, high: 2, step: 0.05, hint: '0 always takes the likeliest token' },
  topP: { label: 'Top-p', low: 0.01, high: 1, step: 0.01, hint: 'the likeliest tokens that make up this share' },
  topK: { label: 'Top-k', low: 0, high: 1000, step: 1, hint: 'this many of the likeliest; 0 is all' },
  minP: { label: 'Min-p', low: 0, high: 1, step: 0.01, hint: 'at least this share of the likeliest one' },
  repetitionPenalty: { label: 'Repetition penalty', low: 0.5, high: 2, step: 0.05, hint: '1 is none' },
  maxTokens: { label: 'Max tokens', low: 1, high: 32768, step: 1, hint: 'of the answer' },
};

/** The number if it is in its range, else null. */
export function readNumber(field: NumberField, typed: string): number | null {
  const { low, high, step } = SAMPLING_RANGES[field];
  const value = typed.trim() === '' ? Number.NaN : Number(typed);
  if (!(value >= low && value <= high)) return null;
  return step === 1 && !Number.isInteger(value) ? null : value;
}

const SEED_BITS = 64;

/** A 64-bit integer, signed or not; empty is null (draw one); anything else is undefined. */
export function readSeed(typed: string): bigint | null | undefined {
  const trimmed = typed.trim();
  if (trimmed === '') return null;
  if (!/^-?\d{1,20}$/.test(trimmed)) return undefined;
  const value = BigInt(trimmed);
  return BigInt.asIntN(SEED_BITS, value) === value || BigInt.asUintN(SEED_BITS, value) === value ? value : undefined;
}

export const MAX_STOPS = 4;

/** One stop text a line; `\n` stands for a line's end. */
export function readStops(typed: string): readonly string[] {
  const lines = typed.split('\n').filter((line) => line !== '');
  return lines.slice(0, MAX_STOPS).map((line) => line.replaceAll('\\n', '\n'));
}

/** A model's own defaults over what is set, for a model that was just opened. */
export function withModelDefaults(sampling: SamplingControls, defaults: GenerationDefaults): SamplingControls {
  return {
    ...sampling,
    temperature: defaults.temperature ?? sampling.temperature,
    topP: defaults.topP ?? sampling.topP,
    topK: defaults.topK ?? sampling.topK,
    repetitionPenalty: defaults.repetitionPenalty ?? sampling.repetitionPenalty,
  };
}
