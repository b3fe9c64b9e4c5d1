/** The `wasm` dense backend in Node. */
import { createWasmDense } from '@glinthawk/dense';
import { expect, it } from 'vitest';
import { denseWasmCases, runDenseWasmCase } from './dense-wasm-cases.ts';
import { randomModel } from './random-model.ts';
import { randomAttended, randomStep, type StepTrace, sameBits, traceStep } from './step-trace.ts';

for (const denseCase of denseWasmCases) {
  it(`wasm dense, ${denseCase.name}`, async () => {
    expect(await runDenseWasmCase(denseCase)).toEqual([]);
  });
}

it("a row's bits depend on neither the other rows nor their number", async () => {
  const model = randomModel();
  const { config } = model;
  const backend = await createWasmDense(model, { workers: 2 });
  try {
    const rows = 64;
    const width = config.heads * config.headDim;
    const qkvWidth = (config.heads + 2 * config.kvHeads) * config.headDim;
    const step = { ...randomStep(config, rows, 5), headRows: Uint32Array.from({ length: rows }, (_, i) => i) };
    const temperatures = new Float32Array(rows).fill(0.7);
    const attended = randomAttended(config, rows, 6);
    const whole = await traceStep(backend, { ...step, inverseTemperatures: temperatures }, attended);
    for (const [start, count] of [
      [0, 1],
      [63, 1],
      [3, 7],
      [20, 33],
    ] as const) {
      const end = start + count;
      const part = await traceStep(
        backend,
        {
          tokenIds: step.tokenIds.slice(start, end),
          positions: step.positions.slice(start, end),
          headRows: Uint32Array.from({ length: count }, (_, i) => i),
          inverseTemperatures: temperatures.slice(start, end),
        },
        attended.map((layer) => layer.slice(start * width, end * width)),
        64,
      );
      const expected: StepTrace = {
        qkv: whole.qkv.map((layer) => layer.slice(start * qkvWidth, end * qkvWidth)),
        heads: whole.heads.slice(start, end),
        logits: whole.logits.slice(start, end),
      };
      expect(sameBits(part, expected), `rows ${start}–${end}`).toBe(true);
    }
  } finally {
    await backend.close();
  }
});
