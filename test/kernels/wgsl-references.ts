/** What the WGSL kernels compute, in naive loops and double precision. */

export interface MatmulData {
  readonly x: ArrayLike<number>; // [rows, inputs]
  readonly weights: ArrayLike<number>; // [outputs, inputs]
  readonly bias: ArrayLike<number> | null; // [outputs]
  readonly added: ArrayLike<number> | null; // [rows, outputs]
}

/** y = x · Wᵀ (+ bias) (+ added). */
export function matmulReference(data: MatmulData, rows: number, inputs: number, outputs: number): Float64Array {
  const y = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row++) {
    for (let output = 0; output < outputs; output++) {
      let sum = (data.bias?.[output] ?? 0) + (data.added?.[row * outputs + output] ?? 0);
      for (let i = 0; i < inputs; i++) {
        sum += (data.x[row * inputs + i] as number) * (data.weights[output * inputs + i] as number);
      }
      y[row * outputs + output] = sum;
    }
  }
  return y;
}

/** One row. */
export function rmsNormReference(x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += (x[i] as number) ** 2;
  const scale = 1 / Math.sqrt(squares / x.length + eps);
  return Float64Array.from({ length: x.length }, (_, i) => (x[i] as number) * scale * (weight[i] as number));
}

/** One head: element i turns with element i + headDim / 2 by the angle whose cosine and sine these are. */
export function ropeReference(
  head: ArrayLike<number>,
  cosines: ArrayLike<number>,
  sines: ArrayLike<number>,
): Float64Array {
  const half = head.length / 2;
  const turned = new Float64Array(head.length);
  for (let i = 0; i < half; i++) {
    const low = head[i] as number;
    const high = head[i + half] as number;
    turned[i] = low * (cosines[i] as number) - high * (sines[i] as number);
    turned[i + half] = high * (cosines[i] as number) + low * (sines[i] as number);
  }
  return turned;
}

export function siluReference(x: number): number {
  return x / (1 + Math.exp(-x));
}

export interface HeadReference {
  readonly ids: readonly number[];
  readonly logits: readonly number[];
  readonly logSumExp: number;
  readonly scaledLogSumExp: number;
}

/** The best `count` of one row's logits, and both log-sum-exps. */
export function headReference(logits: Float32Array, inverseTemperature: number, count: number): HeadReference {
  const ids = Array.from(logits.keys())
    .sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b)
    .slice(0, count);
  const best = logits[ids[0] as number] as number;
  let sum = 0;
  let scaledSum = 0;
  for (const logit of logits) {
    sum += Math.exp(logit - best);
    scaledSum += Math.exp((logit - best) * inverseTemperature);
  }
  return {
    ids,
    logits: ids.map((id) => logits[id] as number),
    logSumExp: best + Math.log(sum),
    scaledLogSumExp: best * inverseTemperature + Math.log(scaledSum),
  };
}
