import { AbortedError } from '@glinthawk/core';
import type { GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import { expect, test } from 'vitest';
import { SAMPLING } from '../state/sampling-settings.ts';
import { runPrompts } from './prompts-run.ts';

test('a prompt may have a length of its own, the others have that of the sampling', async () => {
  const requests: GenerationRequest[] = [];
  async function* generate(
    asked: Iterable<GenerationRequest> | AsyncIterable<GenerationRequest>,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    for await (const request of asked) {
      requests.push(request);
      yield { type: 'error', id: request.id, error: new AbortedError() };
    }
  }
  const tokenizer = { encode: () => [2, 3] };
  const session = { model: { tokenizer } as never, contextTokens: 512, generate };
  await runPrompts(
    {
      type: 'generate',
      run: 3,
      prompts: [
        { kind: 'text', text: 'whole' },
        { kind: 'text', text: 'half', maxTokens: 7 },
      ],
      sampling: { ...SAMPLING, maxTokens: 64 },
    },
    { session, signal: new AbortController().signal, send: () => {}, onTokens: () => {} },
  );
  expect(requests.map(({ id, maxTokens }) => [id, maxTokens])).toEqual([
    ['3.0', 64],
    ['3.1', 7],
  ]);
});
