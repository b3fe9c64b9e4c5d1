/** `glinthawk run` over two `glinthawk attention` nodes whose KV memory is each too small for the contexts that they hold together. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { byId, glinthawk, readLines, runArguments, start, temporaryFolder } from './command.ts';

/** A token of the example model takes 3 KiB in f32: a node holds some 330, the model's context is 512. */
const NODE = ['attention', '--listen', '127.0.0.1:0', '--workers', '1', '--memory', '1MiB'];

const job = Array.from({ length: 8 }, (_, i) => {
  const prompt = `Once upon a time ${'there was a very old tree '.repeat(i % 3)}`.trim();
  const rest = {
    max_tokens: i % 4 === 0 ? 470 : 30,
    temperature: i % 2,
    seed: i,
    ignore_eos: true,
    return_token_ids: true,
  };
  return JSON.stringify({ custom_id: `r${i}`, prompt, ...rest });
}).join('\n');

it('one context over two nodes: the results are those of one memory', { timeout: 120_000 }, async () => {
  const folder = temporaryFolder();
  const outputs = ['local', 'nodes', 'one node'].map((name) => join(folder, `${name}.jsonl`)) as [
    string,
    string,
    string,
  ];
  const alone = await glinthawk(runArguments('-', outputs[0]), { stdin: job });
  expect(alone.status, alone.stderr).toBe(0);
  const nodes = [start(NODE), start(NODE)];
  const urls: string[] = [];
  for (const node of nodes) urls.push((await node.saw(/listening at (tcp\S+) /))[1] ?? '');

  const spread = await glinthawk(runArguments('-', outputs[1], '--attention', urls.join(',')), { stdin: job });
  expect(spread.status, spread.stderr).toBe(0);
  expect(spread.stderr).toContain('done: 8 requests, 8 succeeded');
  expect(byId(readLines(outputs[1]))).toEqual(byId(readLines(outputs[0])));

  const refused = await glinthawk(runArguments('-', outputs[2], '--attention', urls[0] ?? ''), { stdin: job });
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toMatch(/2 requests can't fit the KV memory/);
});
