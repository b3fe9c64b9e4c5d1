/**
 * What a comparison says, in words: which setting won here, by how much, and why, from what was measured and nothing else. Where
 * one tier wins it says so, and what would change that.
 */
import type { Measurement } from './comparison.ts';
import type { Knobs, Setup } from './experiment-settings.ts';
import { percent } from './timeline-summary.ts';

export interface Verdict {
  readonly winner: Setup | null;
  readonly headline: string;
  readonly why: string;
}

/** Less apart than this is a tie: runs of a few seconds vary by as much. */
const TIE = 1.05;
/** The dense tier has little left to give. */
const SATURATED = 0.8;

export function verdict(results: readonly Measurement[], knobs: Knobs): Verdict {
  const of = (setup: Setup) => results.find((result) => result.setup === setup);
  const [one, single, many] = [of('one-tier'), of('one-in-flight'), of('many-in-flight')];
  if (one === undefined || single === undefined || many === undefined)
    return { winner: null, headline: 'Not all three were measured.', why: '' };
  const ranked = [one, single, many].toSorted((a, b) => b.tokensPerSecond - a.tokensPerSecond);
  const [first, second] = ranked;
  if (first === undefined || second === undefined || first.tokensPerSecond === 0)
    return { winner: null, headline: 'Nothing was generated.', why: '' };
  const open = ranked.find((each) => each !== first && !each.steady && couldWrite(each) > first.tokensPerSecond);
  if (open !== undefined) {
    return {
      winner: null,
      headline: `Not decided: ${nameOf(open.setup, knobs)} was not steady yet when it was measured.`,
      why:
        `Half-written stories were still being read in: a dense call wrote ${writing(open)} tokens and read ${open.prefillRows.toFixed(1)}, ` +
        'which leaves room for more than what won. Compare again when the machine has less else to do, or with less in flight.',
    };
  }
  if (first.tokensPerSecond < TIE * second.tokensPerSecond) {
    return {
      winner: null,
      headline: `A tie here: ${nameOf(first.setup, knobs)} and ${nameOf(second.setup, knobs)} both write about ${rate(first)} tokens a second.`,
      why: `${whyTwoTiers(one, many, knobs)} ${whatWouldChange(one, many, knobs)}`,
    };
  }
  switch (first.setup) {
    case 'many-in-flight':
      return {
        winner: 'many-in-flight',
        headline:
          `Two tiers with ${knobs.inFlight} in flight win here: ${rate(many)} tokens a second, ${times(many, one)} one tier's ` +
          `${rate(one)} and ${times(many, single)} the ${rate(single)} of 1 in flight.`,
        why: whyTwoTiers(one, many, knobs),
      };
    case 'one-tier':
      return {
        winner: 'one-tier',
        headline: `One tier wins here: ${rate(one)} tokens a second, ${times(one, many)} the ${rate(many)} of two tiers with ${knobs.inFlight} in flight.`,
        why: whatWouldChange(one, many, knobs),
      };
    case 'one-in-flight':
      return {
        winner: 'one-in-flight',
        headline: `Two tiers with 1 in flight win here: ${rate(single)} tokens a second, ${times(single, many)} the ${rate(many)} of ${knobs.inFlight} in flight.`,
        why:
          `There is little to hide at ${knobs.latencyMs} ms: the dense tier was busy ${percent(single.denseShare)} of the time with one micro-batch, ` +
          `and sharing out the sequences makes smaller ones (${writing(many)} tokens a call instead of ${writing(single)}). More latency or more sequences would change that.`,
      };
    default:
      return first.setup satisfies never;
  }
}

/** Tokens a second if all rows wrote: what reading takes of it is less once a load is steady. */
function couldWrite({ tokensPerSecond, decodeRows, prefillRows }: Measurement): number {
  return decodeRows > 0 ? (tokensPerSecond * (decodeRows + prefillRows)) / decodeRows : 0;
}

function whyTwoTiers(one: Measurement, many: Measurement, { latencyMs }: Knobs): string {
  const batch =
    one.running < many.running
      ? `One tier's KV memory held ${one.running.toFixed(1)} stories at a time, so a dense call wrote ${writing(one)} tokens${preempting(one)}; ` +
        `the workers held ${Math.round(many.running)}, and a call wrote ${writing(many)}.`
      : `One tier held ${one.running.toFixed(0)} stories at a time, two tiers ${many.running.toFixed(0)}.`;
  const hidden =
    many.hiddenShare === null
      ? ''
      : ` Of the time that micro-batches were away (${latencyMs} ms a round trip and the attention), ${percent(many.hiddenShare)} was hidden: ` +
        `the dense tier worked on others and was busy ${percent(many.denseShare)} of the time.`;
  return `${batch}${hidden}`;
}

function whatWouldChange(one: Measurement, many: Measurement, { latencyMs, inFlight }: Knobs): string {
  if (many.denseShare < SATURATED) {
    const exposed = many.hiddenShare === null ? '' : `${percent(1 - many.hiddenShare)} of the time away was exposed: `;
    return (
      `${exposed}${inFlight} micro-batches that write ${writing(many)} tokens each are too little work to cover round trips of ${latencyMs} ms, so with two tiers the dense tier was ` +
      `busy only ${percent(many.denseShare)} of the time. More in flight (which takes more KV memory), larger micro-batches or a nearer attention tier would change that.`
    );
  }
  return (
    `The dense tier was at its limit with two tiers, too (busy ${percent(many.denseShare)}), and one tier's KV memory was enough to write ${writing(one)} tokens a call${preempting(one)}. ` +
    'Two tiers gain where that memory holds fewer sequences: longer contexts, a larger model beside the same memory.'
  );
}

function rate({ tokensPerSecond }: Measurement): string {
  return Math.round(tokensPerSecond).toLocaleString('en-US');
}

function times(more: Measurement, less: Measurement): string {
  const factor = more.tokensPerSecond / Math.max(1e-9, less.tokensPerSecond);
  return `${factor >= 10 ? Math.round(factor) : factor.toFixed(1)} times`;
}

function writing({ decodeRows }: Measurement): string {
  return decodeRows < 10 ? decodeRows.toFixed(1) : String(Math.round(decodeRows));
}

function preempting({ preemptionsPerSecond }: Measurement): string {
  return preemptionsPerSecond < 0.5
    ? ''
    : ` (and ${preemptionsPerSecond.toFixed(1)} times a second one story made room for another, to be read in again)`;
}

function nameOf(setup: Setup, { inFlight }: Knobs): string {
  if (setup === 'one-tier') return 'one tier';
  return setup === 'one-in-flight' ? 'two tiers with 1 in flight' : `two tiers with ${inFlight} in flight`;
}
