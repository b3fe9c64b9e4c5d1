/** The `wasm` dense backend in a browser: Web Workers, and the library's WASM by the bundler's address. */
import { expect, it } from 'vitest';
import { denseWasmCases, runDenseWasmCase } from './dense-wasm-cases.ts';

it('the page is cross-origin isolated, so that workers share memory', () => {
  expect(globalThis.crossOriginIsolated).toBe(true);
});

for (const denseCase of denseWasmCases) {
  it(`wasm dense, ${denseCase.name}`, async () => {
    expect(await runDenseWasmCase(denseCase)).toEqual([]);
  });
}
