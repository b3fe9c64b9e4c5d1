/** How far a variant's next-token distributions and attention outputs are from the true ones, summed up over tokens. */
export interface Distribution {
  readonly logits: Float32Array; // [vocabSize]
  readonly logSumExp: number;
}

/** The true distribution of one position, and the token that follows. */
export interface Truth extends Distribution {
  readonly probabilities: Float32Array; // [vocabSize]
  readonly best: number;
  readonly next: number;
}

export function truthOf({ logits, logSumExp }: Distribution, next: number): Truth {
  const probabilities = new Float32Array(logits.length);
  for (let i = 0; i < logits.length; i++) probabilities[i] = Math.exp((logits[i] as number) - logSumExp);
  return { logits: logits.slice(), logSumExp, probabilities, best: indexOfLargest(logits), next };
}

export class Score {
  readonly name: string;
  #loss = 0;
  #divergence = 0;
  #agreeing = 0;
  /** Of each token: how much more it costs than by the true distribution. */
  readonly #excess: number[] = [];
  readonly #errors: Float64Array; // [layers]
  readonly #squares: Float64Array;

  constructor(name: string, layers: number) {
    this.name = name;
    this.#errors = new Float64Array(layers);
    this.#squares = new Float64Array(layers);
  }

  addToken(truth: Truth, { logits, logSumExp }: Distribution): void {
    const loss = logSumExp - (logits[truth.next] as number);
    let divergence = logSumExp - truth.logSumExp;
    for (let i = 0; i < logits.length; i++) {
      divergence += (truth.probabilities[i] as number) * ((truth.logits[i] as number) - (logits[i] as number));
    }
    this.#loss += loss;
    this.#divergence += divergence;
    this.#excess.push(loss - (truth.logSumExp - (truth.logits[truth.next] as number)));
    if (indexOfLargest(logits) === truth.best) this.#agreeing++;
  }

  /** What attention gave for true q, k and v. */
  addOutput(layer: number, expected: Float32Array, found: Float32Array): void {
    let error = 0;
    let square = 0;
    for (let i = 0; i < expected.length; i++) {
      error += ((found[i] as number) - (expected[i] as number)) ** 2;
      square += (expected[i] as number) ** 2;
    }
    this.#errors[layer] = (this.#errors[layer] as number) + error;
    this.#squares[layer] = (this.#squares[layer] as number) + square;
  }

  result(): ScoreResult {
    const tokens = this.#excess.length;
    const excess = this.#excess.reduce((sum, x) => sum + x, 0) / tokens;
    const variance = this.#excess.reduce((sum, x) => sum + (x - excess) ** 2, 0) / Math.max(1, tokens - 1);
    return {
      name: this.name,
      tokens,
      perplexity: Math.exp(this.#loss / tokens),
      perplexityChange: Math.expm1(excess),
      perplexityChangeError: Math.sqrt(variance / tokens),
      divergence: this.#divergence / tokens,
      agreement: this.#agreeing / tokens,
      outputErrors: Array.from(this.#errors, (error, layer) => error / (this.#squares[layer] as number)),
    };
  }
}

export interface ScoreResult {
  readonly name: string;
  readonly tokens: number;
  readonly perplexity: number;
  /** Relative; and the standard error of it, by tokens. */
  readonly perplexityChange: number;
  readonly perplexityChangeError: number;
  /** Mean Kullback-Leibler divergence from the true distribution, nats. */
  readonly divergence: number;
  /** Share of tokens whose most probable successor is the true one. */
  readonly agreement: number;
  /** By layer: mean square error of attention's output over its mean square, of true q, k and v. */
  readonly outputErrors: readonly number[];
}

function indexOfLargest(values: Float32Array): number {
  let at = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[at] as number)) at = i;
  return at;
}
