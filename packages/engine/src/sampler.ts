/**
 * From a head row to a token. Sampling is exact: nothing is cut off but what the request's own filters cut. The order is
 * logit_bias → repetition → frequency and presence penalties (as vLLM) → temperature → top_k → top_p → min_p (as Hugging Face
 * transformers); top_p counts the mass that top_k left. Each filter keeps a prefix of the tokens in descending order
 * (equal logits: lower id first), so one uniform draw walks that order.
 *
 * The head's 64 candidates decide nearly always; where they can't, the full row is asked for and the same walk goes on. Both
 * paths use the same sums in the same order, so that which path was taken never shows in the result.
 */
import type { HeadRow } from '@glinthawk/dense';
import type { Logprob, SamplingParams, TokenLogprobs } from './request.ts';

/** Most log-probabilities that a request may ask for beside the chosen one, as in OpenAI's API. */
export const MAX_TOP_LOGPROBS = 20;

/** Below this, dividing by the temperature says nothing more: the highest logit is taken, as vLLM does. */
export const MIN_TEMPERATURE = 1e-5;

/** What repetition, frequency and presence penalties count. */
export interface TokenCounts {
  /** Ids of the prompt. */
  readonly prompt: ReadonlySet<number>;
  /** How often each id was generated. */
  readonly generated: ReadonlyMap<number, number>;
}

export function isGreedy(sampling: SamplingParams): boolean {
  return sampling.temperature < MIN_TEMPERATURE || sampling.topK === 1;
}

/** What the head multiplies logits by for `scaledLogSumExp`; in f32, as it travels there. */
export function inverseTemperature(sampling: SamplingParams): number {
  return isGreedy(sampling) ? 1 : Math.fround(1 / sampling.temperature);
}

/** Whether the logits themselves are changed, so that candidates of the raw row say nothing. */
export function changesLogits(sampling: SamplingParams): boolean {
  return (
    sampling.frequencyPenalty !== 0 ||
    sampling.presencePenalty !== 0 ||
    sampling.repetitionPenalty !== 1 ||
    sampling.logitBias.size > 0
  );
}

/** Whether a head row holds numbers that can be sampled from. */
export function isFiniteRow(row: HeadRow): boolean {
  const first = row.logits[0];
  return first !== undefined && Number.isFinite(first) && Number.isFinite(row.logSumExp);
}

/** Tokens in descending order with what is known of the whole row. */
interface Ranked {
  readonly ids: Uint32Array; // [known]
  readonly logits: Float32Array; // [known]
  /** ln Σ exp(logit · inverseTemperature) over the vocabulary. */
  readonly scaledLogSumExp: number;
  /** Whether ids is the whole vocabulary. */
  readonly complete: boolean;
  readonly vocabSize: number;
}

/**
 * The token, or null when the candidates can't decide and the full row is needed.
 * @param draw uniform in [0, 1)
 */
export function sampleCandidates(
  row: HeadRow,
  sampling: SamplingParams,
  vocabSize: number,
  draw: number,
): number | null {
  if (isGreedy(sampling)) return row.ids[0] as number;
  const complete = row.ids.length >= vocabSize;
  return walk({ ...row, complete, vocabSize, scaledLogSumExp: normaliser(row, sampling, vocabSize) }, sampling, draw);
}

/** The token from all logits, where the head row's candidates couldn't decide. `logits` is raw: [vocab]. */
export function sampleFull(row: HeadRow, logits: Float32Array, sampling: SamplingParams, draw: number): number {
  if (isGreedy(sampling)) return argmax(logits);
  const { ids, logits: sorted } = rank(logits);
  const vocabSize = logits.length;
  const scaledLogSumExp = normaliser(row, sampling, vocabSize);
  return (
    walk({ ids, logits: sorted, scaledLogSumExp, complete: true, vocabSize }, sampling, draw) ?? (ids[0] as number)
  );
}

/** As sampleFull, for a row whose logits are changed first: sums are taken here, over the changed row. */
export function samplePenalised(
  logits: Float32Array,
  counts: TokenCounts,
  sampling: SamplingParams,
  draw: number,
): number | null {
  const changed = applyPenalties(logits, counts, sampling);
  if (isGreedy(sampling)) {
    const best = argmax(changed);
    return Number.isFinite(changed[best]) ? best : null;
  }
  const { ids, logits: sorted } = rank(changed);
  if (!Number.isFinite(sorted[0])) return null;
  const scaledLogSumExp = sumOf(sorted, inverseTemperature(sampling));
  const vocabSize = logits.length;
  return walk({ ids, logits: sorted, scaledLogSumExp, complete: true, vocabSize }, sampling, draw);
}

/** A changed copy: bias, then repetition over prompt and generated ids, then frequency and presence over generated ones. */
export function applyPenalties(logits: Float32Array, counts: TokenCounts, sampling: SamplingParams): Float32Array {
  const changed = logits.slice();
  const { repetitionPenalty, frequencyPenalty, presencePenalty } = sampling;
  for (const [id, bias] of sampling.logitBias) {
    if (id < changed.length) changed[id] = (changed[id] as number) + bias;
  }
  if (repetitionPenalty !== 1) {
    const punish = (id: number) => {
      const logit = changed[id] as number;
      changed[id] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
    };
    for (const id of counts.prompt) punish(id);
    for (const id of counts.generated.keys()) if (!counts.prompt.has(id)) punish(id);
  }
  if (frequencyPenalty !== 0 || presencePenalty !== 0) {
    for (const [id, count] of counts.generated) {
      changed[id] = (changed[id] as number) - frequencyPenalty * count - presencePenalty;
    }
  }
  return changed;
}

/**
 * Log-probabilities of the raw distribution, before temperature, penalties and filters.
 * @param chosenLogit the raw logit of `tokenId` where it is not among the candidates
 */
export function logprobsOf(row: HeadRow, tokenId: number, top: number, chosenLogit?: number): TokenLogprobs {
  const count = Math.min(top, row.ids.length);
  const best: Logprob[] = [];
  for (let i = 0; i < count; i++) {
    best.push({ tokenId: row.ids[i] as number, logprob: (row.logits[i] as number) - row.logSumExp });
  }
  const at = row.ids.indexOf(tokenId);
  const logit = at >= 0 ? (row.logits[at] as number) : chosenLogit;
  return { tokenId, logprob: logit === undefined ? Number.NEGATIVE_INFINITY : logit - row.logSumExp, top: best };
}

/**
 * Walks the ranked tokens; null when it would have to leave what is known. A filter's prefix may end beyond what is known:
 * then its mass lies between bounds, and the draw is decided where both bounds choose the same token.
 */
function walk(ranked: Ranked, sampling: SamplingParams, draw: number): number | null {
  const { ids, logits, scaledLogSumExp, complete, vocabSize } = ranked;
  const inverse = inverseTemperature(sampling);
  const known = ids.length;
  const { topP, minP } = sampling;
  const topK = sampling.topK > 0 && sampling.topK < vocabSize ? sampling.topK : 0;
  const probability = (i: number) => Math.exp((logits[i] as number) * inverse - scaledLogSumExp);

  if (topK === 0 && topP >= 1 && minP <= 0) return pick(ids, known, probability, { draw, whole: 1 }, complete);

  const limit = topK === 0 ? known : Math.min(topK, known);
  const prefixKnown = complete || (topK > 0 && topK <= known);
  // top_k's mass, which top_p is a share of. Unknown when top_k reaches beyond the candidates.
  let kept = 1;
  if (topK > 0 && topP < 1) {
    if (!prefixKnown) return null;
    kept = 0;
    for (let i = 0; i < limit; i++) kept += probability(i);
  }
  const nucleus = topP < 1 ? topP * kept : Number.POSITIVE_INFINITY;
  const floor = minP > 0 ? minP * probability(0) : 0;
  let mass = 0;
  let end = 0; // tokens kept, among the known
  let ended = prefixKnown;
  while (end < limit) {
    const p = probability(end);
    if (end > 0 && (mass >= nucleus || p < floor)) {
      ended = true;
      break;
    }
    mass += p;
    end++;
  }
  if (mass >= nucleus) ended = true;
  // A head's sum is rounded: the whole row may weigh a little less than 1.
  if (complete && topK === 0 && topP < 1 && end === limit) mass = Math.max(mass, nucleus);
  if (ended) return pick(ids, end, probability, { draw, whole: mass }, true);

  let low = mass;
  let high = Math.max(1, mass) + 1e-3; // as above: or a little more
  if (topK === 0 && minP <= 0) {
    // Only top_p, crossed by some token further down that is no more probable than the last known one.
    low = nucleus;
    high = nucleus + probability(known - 1);
  }
  const first = pick(ids, end, probability, { draw, whole: low }, false);
  const last = pick(ids, end, probability, { draw, whole: high }, false);
  return first !== null && first === last ? first : null;
}

/**
 * The first of `count` tokens at which the summed probability exceeds the draw's share of `whole`. Past the end: null where more
 * tokens follow. Where none does, `whole` was a rounded sum and the tokens weigh a little less; a draw in that gap is uniform
 * there, and walks the tokens again in proportion. So what candidates decide stays as it is, and the gap isn't all the last token's.
 */
function pick(
  ids: Uint32Array,
  count: number,
  probability: (i: number) => number,
  { draw, whole }: { readonly draw: number; readonly whole: number },
  endsHere: boolean,
): number | null {
  const first = firstBeyond(count, probability, draw * whole);
  if (first.at >= 0) return ids[first.at] as number;
  if (!endsHere) return null;
  const { sum } = first;
  const again = firstBeyond(count, probability, ((draw * whole - sum) / (whole - sum)) * sum);
  return ids[Math.max(0, again.at)] as number;
}

function firstBeyond(count: number, probability: (i: number) => number, target: number) {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += probability(i);
    if (sum > target) return { at: i, sum };
  }
  return { at: -1, sum };
}

/**
 * ln Σ exp(logit · inverseTemperature) over the vocabulary. At low temperatures a head's f32 sum is too coarse (its value is a
 * scaled logit, its rounding an absolute error in every log-probability); then what lies beyond the candidates weighs less
 * than 2^-40 in all, and their own sum is the better one.
 */
function normaliser(row: HeadRow, sampling: SamplingParams, vocabSize: number): number {
  const inverse = inverseTemperature(sampling);
  const last = row.logits.length - 1;
  const spread = ((row.logits[0] as number) - (row.logits[last] as number)) * inverse;
  const beyond = vocabSize - row.logits.length;
  if (beyond <= 0 || Math.log(beyond) - spread < -40 * Math.LN2) return sumOf(row.logits, inverse);
  return row.scaledLogSumExp;
}

/** ln Σ exp(logit · scale) of descending logits. */
function sumOf(descending: Float32Array, scale: number): number {
  const max = (descending[0] as number) * scale;
  let sum = 0;
  for (let i = 0; i < descending.length; i++) sum += Math.exp((descending[i] as number) * scale - max);
  return max + Math.log(sum);
}

/** The id of the highest logit, the lowest of equals; NaN never wins. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  let bestLogit = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i] as number;
    if (logit > bestLogit) {
      best = i;
      bestLogit = logit;
    }
  }
  return best;
}

/**
 * All ids by descending logit, equal ones by ascending id. Sorted as 64-bit integers (order-reversed float bits above the id),
 * which typed arrays sort natively: 150,000 logits take some 10 ms, a comparator ten times as long.
 */
export function rank(logits: Float32Array): { readonly ids: Uint32Array; readonly logits: Float32Array } {
  const bits = new Uint32Array(Float32Array.from(logits, (x) => x + 0).buffer); // + 0 makes -0 equal 0
  const keys = new BigUint64Array(logits.length);
  const halves = new Uint32Array(keys.buffer);
  const [low, high] = littleEndian ? [0, 1] : [1, 0];
  for (let i = 0; i < logits.length; i++) {
    const b = bits[i] as number;
    halves[2 * i + low] = i;
    halves[2 * i + high] = b & 0x80000000 ? b : ~b & 0x7fffffff;
  }
  keys.sort();
  const ids = new Uint32Array(logits.length);
  const sorted = new Float32Array(logits.length);
  for (let i = 0; i < ids.length; i++) {
    const id = halves[2 * i + low] as number;
    ids[i] = id;
    sorted[i] = logits[id] as number;
  }
  return { ids, logits: sorted };
}

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
