import { describe, expect, it } from 'vitest';
import type { ModelConfig, RopeScaling } from './model-config.ts';
import { fillRopeTable, ropeFrequencies } from './rope.ts';

const config = (scaling: RopeScaling, headDim = 8, theta = 10000): ModelConfig => ({
  family: 'llama',
  vocabSize: 16,
  hiddenSize: 16,
  intermediateSize: 16,
  layers: 1,
  heads: 2,
  kvHeads: 1,
  headDim,
  contextTokens: 128,
  rmsNormEps: 1e-5,
  rope: { theta, scaling },
  tiedEmbeddings: true,
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  qkNorm: false,
  windows: [0],
  bosTokenId: null,
  eosTokenIds: [],
});

describe('ropeFrequencies', () => {
  it('falls by powers of theta', () => {
    const { inverse, amplitude } = ropeFrequencies(config({ type: 'none' }));
    expect(amplitude).toBe(1);
    expect([...inverse].map((x) => +x.toFixed(9))).toEqual([1, 0.1, 0.01, 0.001]);
  });

  it('divides by the factor when linear', () => {
    const { inverse } = ropeFrequencies(config({ type: 'linear', factor: 2 }));
    expect(inverse[0]).toBe(0.5);
  });

  it('slows only long wavelengths in Llama 3.1', () => {
    const plain = ropeFrequencies(config({ type: 'none' }, 128, 500000)).inverse;
    const { inverse } = ropeFrequencies(
      config(
        { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextTokens: 8192 },
        128,
        500000,
      ),
    );
    for (let i = 0; i < inverse.length; i++) {
      const wavelength = (2 * Math.PI) / plain[i];
      if (wavelength < 2048) expect(inverse[i]).toBe(plain[i]);
      else if (wavelength > 8192) expect(inverse[i]).toBe(plain[i] / 8);
      else {
        expect(inverse[i]).toBeLessThanOrEqual(plain[i]);
        expect(inverse[i]).toBeGreaterThanOrEqual(plain[i] / 8);
      }
    }
  });

  it('ramps between interpolated and untouched dimensions in YaRN', () => {
    const scaling = {
      type: 'yarn',
      factor: 4,
      originalContextTokens: 4096,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: 0.1 * Math.log(4) + 1,
      truncate: true,
    } as const;
    const plain = ropeFrequencies(config({ type: 'none' }, 128)).inverse;
    const { inverse, amplitude } = ropeFrequencies(config(scaling, 128));
    expect(amplitude).toBeCloseTo(1.1386294, 6);
    expect(inverse[0]).toBe(plain[0]);
    expect(inverse[63]).toBeCloseTo(plain[63] / 4, 12);
    for (let i = 1; i < 64; i++) expect(inverse[i]).toBeLessThan(inverse[i - 1]);
  });
});

describe('fillRopeTable', () => {
  it('holds cos then sin of each position, also far out', () => {
    const frequencies = ropeFrequencies(config({ type: 'none' }));
    const table = new Float32Array(2 * 8);
    fillRopeTable(frequencies, Uint32Array.of(0, 131071), table);
    expect([...table.subarray(0, 8)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    for (let i = 0; i < 4; i++) {
      expect(table[8 + i]).toBe(Math.fround(Math.cos(131071 * frequencies.inverse[i])));
      expect(table[12 + i]).toBe(Math.fround(Math.sin(131071 * frequencies.inverse[i])));
    }
  });
});
