/** Goldens as the page takes and gives them: requests as JSONL, and the token ids of their results. */
import { expect } from 'vitest';
import type { ResultLine } from '../e2e/command.ts';
import type { GoldenCase } from '../golden/golden-cases.ts';

/** Greedy requests for the first `tokens` of each case; all of them by default. */
export function goldenJsonl(goldens: readonly GoldenCase[], tokens = Number.POSITIVE_INFINITY): string {
  return goldens
    .map(({ prompt, promptIds, greedyIds, kind }, i) => {
      const rest = { max_tokens: Math.min(tokens, greedyIds.length), temperature: 0, return_token_ids: true };
      const asked = kind === 'chat' ? { messages: [{ role: 'user', content: prompt }] } : { prompt: promptIds };
      return JSON.stringify({ custom_id: `golden-${i}`, ...asked, ...rest });
    })
    .join('\n');
}

export function expectGoldenIds(
  results: readonly ResultLine[],
  goldens: readonly GoldenCase[],
  tokens = Number.POSITIVE_INFINITY,
): void {
  const got = Object.fromEntries(
    results.map(({ custom_id, response }) => [custom_id, response.body.choices[0]?.token_ids]),
  );
  const wanted = Object.fromEntries(goldens.map(({ greedyIds }, i) => [`golden-${i}`, greedyIds.slice(0, tokens)]));
  expect(got).toEqual(wanted);
}
