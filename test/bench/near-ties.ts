/**
 * What batching does to a job's tokens: 60 stories, greedy and sampled, in several ways of batching, and the greedy ones continued from
 * a quarter, a half and three quarters, as after the loss of a node. Prints how many part from the first run, by KV dtype, and how
 * near the two best tokens were there (a sampled story, an odd one, parts where its draw falls on an edge).
 */
import { localAttentionSource } from '@glinthawk/attention';
import type { KvDtype } from '@glinthawk/core';
import { createWasmDense } from '@glinthawk/dense';
import { createEngine, type GenerationEvent, type GenerationRequest } from '@glinthawk/engine';
import { encodePrompt, openModel } from '@glinthawk/model';
import { requestOf } from '../golden/engine.ts';
import { exampleModel } from '../model-paths.ts';

type Finish = Extract<GenerationEvent, { readonly type: 'finish' }>;

const model = await openModel(exampleModel);
const dense = await createWasmDense(model, { workers: 2 });
const beginnings = ['Once upon a time', 'The little dragon', 'One day Tom', 'In the garden', 'The big ship'];
const requests = Array.from({ length: 60 }, (_, i) =>
  requestOf(
    `story ${i}`,
    encodePrompt(model, `${beginnings[i % 5]} ${'very '.repeat(i % 7)}`.trim()),
    24 + (i % 12) * 12,
    { sampling: { temperature: i % 2, topP: i % 2 ? 0.9 : 1, seed: BigInt(i) }, topLogprobs: 2 },
  ),
);

interface Batching {
  readonly microBatchRows: number;
  readonly inFlight: number;
  readonly prefillChunk: number;
}

async function run(
  kvDtype: KvDtype,
  batching: Batching,
  some: readonly GenerationRequest[],
): Promise<Map<string, Finish>> {
  const attention = [localAttentionSource({ workers: 2, memoryBytes: 2 ** 26 })];
  const engine = await createEngine({ dense, attention, kvDtype, fingerprint: model.fingerprint, ...batching });
  const finished = new Map<string, Finish>();
  for await (const event of engine.generate(some)) {
    if (event.type === 'error') throw event.error;
    if (event.type === 'finish') finished.set(event.id, event);
  }
  await engine.close();
  return finished;
}

/** Where the second parts from the first, which is read from token `from` on. */
function parting(id: string, first: Finish, second: Finish, from = 0): string | null {
  const at = second.tokenIds.findIndex((token, i) => token !== first.tokenIds[from + i]);
  if (at < 0) return null;
  const [best, next] = first.logprobs?.[from + at]?.top ?? [];
  const gap = best && next ? (best.logprob - next.logprob).toExponential(1) : '?';
  return `  ${id}: token ${from + at} of ${first.tokenIds.length}, the two most probable ${gap} apart`;
}

const first: Batching = { microBatchRows: 64, inFlight: 2, prefillChunk: 512 };
const others: readonly Batching[] = [
  { microBatchRows: 7, inFlight: 3, prefillChunk: 5 },
  { microBatchRows: 1, inFlight: 1, prefillChunk: 1 },
  { microBatchRows: 64, inFlight: 8, prefillChunk: 3 },
];
for (const kvDtype of ['f32', 'f16'] as const) {
  const base = await run(kvDtype, first, requests);
  const baseOf = (id: string) => base.get(id) as Finish;
  for (const batching of others) {
    const got = await run(kvDtype, batching, requests);
    const parted = [...got].map(([id, finish]) => parting(id, baseOf(id), finish)).filter((line) => line !== null);
    const { microBatchRows, inFlight, prefillChunk } = batching;
    console.log(
      `${kvDtype}: ${microBatchRows} rows, ${inFlight} in flight, chunks of ${prefillChunk}: ${parted.length} of ${got.size} part`,
    );
    for (const line of parted) console.log(line);
  }
  const continued = requests
    .filter(({ sampling }) => sampling.temperature === 0)
    .flatMap((request) =>
      [1, 2, 3].map((quarters) => {
        const { tokenIds } = baseOf(request.id);
        const from = Math.floor((tokenIds.length * quarters) / 4);
        const promptIds = [...request.promptIds, ...tokenIds.slice(0, from)];
        return {
          story: request.id,
          from,
          request: { ...request, id: `${request.id}/${quarters}`, promptIds, maxTokens: tokenIds.length - from },
        };
      }),
    );
  const got = await run(
    kvDtype,
    first,
    continued.map(({ request }) => request),
  );
  const parted = continued
    .map(({ story, from, request }) => parting(request.id, baseOf(story), got.get(request.id) as Finish, from))
    .filter((line) => line !== null);
  console.log(`${kvDtype}: continued from a prefill: ${parted.length} of ${got.size} part`);
  for (const line of parted) console.log(line);
}
await dense.close();
await model.close();
