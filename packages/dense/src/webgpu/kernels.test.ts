/** What the host believes of the shaders, held to the shaders themselves. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { WgslReflect } from 'wgsl_reflect/wgsl_reflect.module.js';
import { embedShaders, generatedShaders } from '../../../../scripts/embed-shaders.ts';
import { HEAD_CANDIDATES } from '../backend.ts';
import { paramsBytes, variantKey, writeParams } from './kernel.ts';
import { allKernels, LIST_CANDIDATES, ropeKernel } from './kernels.ts';
import { SHADERS } from './shaders.gen.ts';

it('the embedded shaders are those of shaders/', () => {
  expect(readFileSync(generatedShaders, 'utf8'), 'run `node scripts/embed-shaders.ts`').toBe(embedShaders());
});

it('every shader has a kernel, and no two kernels a variant key', () => {
  expect([...new Set(allKernels().map(({ name }) => name))].sort()).toEqual(Object.keys(SHADERS).sort());
  const keys = allKernels().map(variantKey);
  expect(new Set(keys).size).toBe(keys.length);
});

for (const kernel of allKernels()) {
  it(`${variantKey(kernel)}: bindings, params and constants are the shader's`, () => {
    const reflection = new WgslReflect(kernel.wgsl);
    expect(reflection.entry.compute.map(({ name }) => name)).toEqual(['main']);
    const bindings = [...reflection.storage, ...reflection.uniforms].sort((a, b) => a.binding - b.binding);
    expect(bindings.map(({ group }) => group)).toEqual(bindings.map(() => 0));
    const outputs = new Set(reflection.storage.filter(({ access }) => access === 'read_write'));
    const uniforms = new Set(reflection.uniforms);
    const kinds = bindings.map((variable) => ({
      name: variable.name,
      kind: uniforms.has(variable) ? 'params' : outputs.has(variable) ? 'output' : 'input',
    }));
    expect(kinds).toEqual(kernel.bindings);
    // The smallest WebGPU limit of storage buffers.
    expect(reflection.storage.length).toBeLessThanOrEqual(8);

    const [params] = reflection.uniforms;
    const members = params?.members ?? [];
    expect(members.map(({ name, type }) => ({ name, type: type.name }))).toEqual(kernel.params);
    expect(members.map(({ offset }) => offset)).toEqual(kernel.params.map((_, i) => 4 * i));
    expect(params?.size).toBeLessThanOrEqual(paramsBytes(kernel));
    // `rows` is first in all: a batch rewrites it for each step.
    expect(kernel.params[0]?.name).toBe('rows');

    expect(reflection.overrides.map(({ name }) => name).sort()).toEqual(Object.keys(kernel.constants).sort());
    expect(kernel.wgsl.includes('enable f16;')).toBe(kernel.features.includes('shader-f16'));
  });
}

it('params are written in order, in their types', () => {
  const kernel = ropeKernel(8);
  const view = new DataView(new ArrayBuffer(64));
  const values = { rows: 3, q_heads: 4, k_heads: 2, head_dim: 8, normed: 1, eps: 0.5 };
  writeParams(kernel, values, view, 32);
  expect([0, 1, 2, 3, 4].map((i) => view.getUint32(32 + 4 * i, true))).toEqual([3, 4, 2, 8, 1]);
  expect(view.getFloat32(52, true)).toBe(0.5);
  expect(() => writeParams(kernel, { rows: 3 }, view, 0)).toThrow('q_heads');
});

it('the head kernels keep as many candidates as the contract names', () => {
  expect(LIST_CANDIDATES).toBe(HEAD_CANDIDATES);
});
