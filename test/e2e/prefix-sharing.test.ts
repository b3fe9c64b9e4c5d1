/** `glinthawk run` on prompts that begin alike and on several choices of one: the same answers with and without sharing, and it says how much. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { byId, glinthawk, readLines, runArguments, temporaryFolder } from './command.ts';

const system = 'Once upon a time there was a little dragon who lived in the garden of a big castle. '.repeat(6);
const input = Array.from({ length: 30 }, (_, i) =>
  JSON.stringify({
    custom_id: `r${i}`,
    prompt: `${system}${['One day', 'Then', 'But', 'Tom', 'The'][i % 5]}${' and then'.repeat(i % 3)}`,
    max_tokens: 12,
    temperature: i % 2,
    seed: i,
    n: i % 10 === 9 ? 4 : 1,
    return_token_ids: true,
  }),
).join('\n');

interface Summary {
  readonly engine: { readonly promptTokens: number; readonly prefixHitTokens: number };
}

it('shares prefixes unless told not to; answers are the same', { timeout: 120_000 }, async () => {
  const folder = temporaryFolder();
  const run = async (...flags: string[]) => {
    const output = join(folder, `out${flags.length}.jsonl`);
    const args = runArguments('-', output, '--json', ...flags);
    const { status, stdout, stderr } = await glinthawk(args, { stdin: input });
    expect(status, stderr).toBe(0);
    return { answers: byId(readLines(output)), stderr, engine: (JSON.parse(stdout) as Summary).engine };
  };
  const shared = await run();
  const alone = await run('--no-prefix-sharing');
  for (const [id, { response }] of alone.answers) {
    expect(shared.answers.get(id)?.response?.body.choices, `${id}`).toEqual(response?.body.choices);
  }
  expect(alone.engine.prefixHitTokens).toBe(0);
  expect(alone.stderr).not.toContain('shared');
  expect(shared.engine.promptTokens).toBe(alone.engine.promptTokens);
  expect(shared.engine.prefixHitTokens / shared.engine.promptTokens).toBeGreaterThan(0.9);
  expect(shared.stderr).toMatch(/shared +[\d,]+ prompt tokens \(9\d %\) stood already/);
});
