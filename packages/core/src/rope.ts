/**
 * Rotary position embeddings (RoFormer, arXiv 2104.09864) in the half-split layout: element i of a head turns with element
 * i + headDim/2. Angles are computed here in double precision, once per row and step, so that every dense backend
 * rotates by the same numbers whatever its hardware's sin and cos are worth.
 */
import type { ModelConfig, RopeScaling } from './model-config.ts';

export interface RopeFrequencies {
  /** Radians per position. [headDim / 2] */
  readonly inverse: Float64Array;
  /** Multiplies cos and sin (YaRN's attention factor), else 1. */
  readonly amplitude: number;
}

export function ropeFrequencies(config: ModelConfig): RopeFrequencies {
  const half = config.headDim / 2;
  const { theta, scaling } = config.rope;
  const base = new Float64Array(half); // [headDim / 2]
  for (let i = 0; i < half; i++) base[i] = theta ** (-i / half);
  return { inverse: scaled(base, theta, scaling), amplitude: scaling.type === 'yarn' ? scaling.attentionFactor : 1 };
}

function scaled(base: Float64Array, theta: number, scaling: RopeScaling): Float64Array {
  switch (scaling.type) {
    case 'none':
      return base;
    case 'linear':
      return base.map((frequency) => frequency / scaling.factor);
    case 'llama3': {
      // Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended.
      const longest = scaling.originalContextTokens / scaling.lowFreqFactor;
      const shortest = scaling.originalContextTokens / scaling.highFreqFactor;
      return base.map((frequency) => {
        const wavelength = (2 * Math.PI) / frequency;
        if (wavelength < shortest) return frequency;
        if (wavelength > longest) return frequency / scaling.factor;
        const smooth =
          (scaling.originalContextTokens / wavelength - scaling.lowFreqFactor) /
          (scaling.highFreqFactor - scaling.lowFreqFactor);
        return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
      });
    }
    case 'yarn': {
      // YaRN (arXiv 2309.00071) section 3.2: a ramp between interpolated and untouched dimensions.
      const dim = base.length * 2;
      const dimensionOf = (rotations: number) =>
        (dim * Math.log(scaling.originalContextTokens / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
      let low = dimensionOf(scaling.betaFast);
      let high = dimensionOf(scaling.betaSlow);
      if (scaling.truncate) {
        low = Math.floor(low);
        high = Math.ceil(high);
      }
      low = Math.max(low, 0);
      high = Math.min(high, dim - 1);
      if (low === high) high += 0.001;
      return base.map((frequency, i) => {
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (frequency / scaling.factor) * ramp + frequency * (1 - ramp);
      });
    }
    case 'factors':
      return base.map((frequency, i) => frequency / (scaling.factors[i] as number));
    default:
      return scaling satisfies never;
  }
}

/**
 * Fills `table` with cos then sin of each position: [rows, 2, headDim / 2] f32.
 */
export function fillRopeTable(frequencies: RopeFrequencies, positions: Uint32Array, table: Float32Array): void {
  const { inverse, amplitude } = frequencies;
  const half = inverse.length;
  for (let row = 0; row < positions.length; row++) {
    const position = positions[row] as number;
    const at = row * 2 * half;
    for (let i = 0; i < half; i++) {
      const angle = position * (inverse[i] as number);
      table[at + i] = Math.cos(angle) * amplitude;
      table[at + half + i] = Math.sin(angle) * amplitude;
    }
  }
}
