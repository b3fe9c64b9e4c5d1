/** `glinthawk run` on the example model: results, resume after Ctrl-C and kill -9, and the same over attention nodes. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { exampleModel, repositoryRoot } from '../models.ts';
import {
  byId,
  glinthawk,
  type ResultLine,
  type Running,
  readLines,
  runArguments,
  start,
  temporaryFolder,
} from './command.ts';

const prompts = join(repositoryRoot, 'examples', 'prompts.jsonl');

interface Golden {
  readonly cases: readonly {
    readonly prompt: string;
    readonly prompt_ids: readonly number[];
    readonly greedy_ids: readonly number[];
    readonly text: string;
  }[];
}

const golden = JSON.parse(readFileSync(join(exampleModel, 'golden.json'), 'utf8')) as Golden;

/** A job of a few seconds: greedy and seeded, chat and completions. */
const STORIES = ['Once upon a time', 'The little dragon', 'One day Tom', 'In the garden', 'The big ship'];
const long = Array.from({ length: 60 }, (_, i) => {
  const prompt = `${STORIES[i % STORIES.length]} ${'very '.repeat(i % 7)}`.trim();
  const rest = {
    max_tokens: 24 + (i % 12) * 12,
    temperature: i % 2,
    seed: i,
    ignore_eos: true,
    return_token_ids: true,
  };
  return JSON.stringify({ custom_id: `r${i}`, prompt, ...rest });
}).join('\n');

let undisturbed: Promise<Map<string | null, ResultLine>> | null = null;

/** What an undisturbed run of `long` gives; run once. */
function expectedOfLong(): Promise<Map<string | null, ResultLine>> {
  undisturbed ??= (async () => {
    const folder = temporaryFolder();
    const output = join(folder, 'out.jsonl');
    const { status, stderr } = await glinthawk(runArguments('-', output), { stdin: long });
    expect(stderr).toContain('done: 60 requests, 60 succeeded');
    expect(status).toBe(0);
    return byId(readLines(output));
  })();
  return undisturbed;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when the journal holds so many finished requests, or the process has ended. */
async function finished(output: string, requests: number, running: Running): Promise<void> {
  let isOver = false;
  void running.ended.then(() => {
    isOver = true;
  });
  const journal = `${output}.journal`;
  while (!isOver) {
    if (existsSync(journal) && readFileSync(journal, 'utf8').split('\n').length - 2 >= requests) return;
    await sleep(5);
  }
}

describe('results', { timeout: 300_000 }, () => {
  it('are the golden ones, in the shape of each request', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    const lines = golden.cases.flatMap(({ prompt, prompt_ids, greedy_ids }, i) => {
      const body = { max_tokens: greedy_ids.length, temperature: 0, return_token_ids: true };
      const line = (id: string, url: string, fields: object) =>
        JSON.stringify({ custom_id: `${id}${i}`, method: 'POST', url, body: { ...body, ...fields } });
      return [
        line('text', '/v1/completions', { prompt }),
        line('ids', '/v1/completions', { prompt: prompt_ids }),
        line('chat', '/v1/chat/completions', { messages: [{ role: 'user', content: prompt }] }),
      ];
    });
    writeFileSync(input, lines.join('\r\n'));
    expect(await glinthawk([...runArguments(input, output), '--kv', 'f32', '--quiet'])).toMatchObject({
      status: 0,
      stderr: '',
    });
    const results = byId(readLines(output));
    for (const [i, { text, greedy_ids, prompt_ids }] of golden.cases.entries()) {
      for (const kind of ['text', 'ids', 'chat']) {
        const { body } = results.get(`${kind}${i}`)?.response ?? expect.unreachable();
        expect(body.choices[0]?.token_ids).toEqual(greedy_ids);
        expect(body.choices[0]?.text ?? body.choices[0]?.message?.content).toBe(text);
        expect(body.usage).toMatchObject({ prompt_tokens: prompt_ids.length, completion_tokens: greedy_ids.length });
      }
    }
  });

  it('of the example are complete, in order when asked, and a second run says so', async () => {
    const output = join(temporaryFolder(), 'out.jsonl');
    const first = await glinthawk([...runArguments(prompts, output), '--ordered', '--json']);
    expect(first.status).toBe(0);
    expect(JSON.parse(first.stdout)).toMatchObject({ status: 'complete', requests: 24, succeeded: 24, failed: 0 });
    const ids = readFileSync(prompts, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).custom_id ?? 'line-24');
    const results = readLines(output);
    expect(results.map((line) => line.custom_id)).toEqual(ids);
    const all = byId(results);
    expect(all.get('two-endings')?.response.body.choices.length).toBe(2);
    expect(all.get('until-mom')?.response.body.choices[0]?.text).not.toContain('mom');
    expect(all.get('likely-words')?.response.body.choices[0]?.logprobs).toMatchObject({
      tokens: expect.any(Array),
      token_logprobs: expect.any(Array),
      text_offset: expect.any(Array),
    });
    const before = readFileSync(output, 'utf8');
    const again = await glinthawk([...runArguments(prompts, output), '--ordered']);
    expect([again.status, readFileSync(output, 'utf8')]).toEqual([0, before]);
    expect(again.stderr).toContain('already done: 24 of 24 requests');
    const other = await glinthawk([...runArguments(prompts, output), '--kv', 'int8']);
    expect([other.status, other.stderr]).toEqual([2, expect.stringContaining('--kv was f32, now int8')]);
  });

  it('are the same from standard input and gzip', async () => {
    const folder = temporaryFolder();
    const zipped = join(folder, 'in.gz');
    const few = long.split('\n').slice(0, 6).join('\n');
    writeFileSync(zipped, gzipSync(few));
    await glinthawk(runArguments(zipped, join(folder, 'a.jsonl')));
    await glinthawk(runArguments('-', join(folder, 'b.jsonl')), { stdin: few });
    const a = byId(readLines(join(folder, 'a.jsonl')));
    const b = byId(readLines(join(folder, 'b.jsonl')));
    expect(a.size).toBe(6);
    for (const [id, { response }] of a) expect(b.get(id)?.response.body.choices).toEqual(response.body.choices);
  });

  it('are refused before anything runs when the KV memory is too small, and say so', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    const chat = '{"custom_id":"chat","messages":[{"role":"user","content":"Hi"}]}';
    const big = `{"custom_id":"big","prompt":${JSON.stringify('word '.repeat(300))},"max_tokens":100}`;
    writeFileSync(input, `{"custom_id":"small","prompt":"One","max_tokens":8}\n${big}\n${chat}`);
    for (const [memory, message] of [
      ['600KiB', /^error: 1 request can't fit the KV memory: prompt and max_tokens come to \d{3} tokens, /m],
      ['1KiB', /^error: the KV memory is too small for this model: /m],
    ] as const) {
      const small = ['--attention', 'local:1', '--kv-memory', memory];
      const { status, stderr, stdout } = await glinthawk([...runArguments(input, output), ...small, '--json']);
      expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
      expect(stderr).toMatch(/^ {2}hint: .*--kv-memory/m);
      expect(JSON.parse(stdout)).toMatchObject({ status: 'invalid', error: { code: 'KV_MEMORY' } });
      expect(readdirSync(folder)).toEqual(['in.jsonl']);
    }
    // One that names no length takes what there is, and is told.
    writeFileSync(input, chat);
    const small = ['--attention', 'local:1', '--kv-memory', '600KiB'];
    const { status, stderr } = await glinthawk([...runArguments(input, output), ...small]);
    expect([status, stderr]).toEqual([0, expect.stringMatching(/^warning: 1 chat request without max_tokens: /m)]);
  });

  it('of an earlier run are kept by --restart until everything else is well', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, '{"prompt":"One","max_tokens":8}');
    expect((await glinthawk(runArguments(input, output))).status).toBe(0);
    const files = () => [output, `${output}.journal`].map((path) => readFileSync(path, 'utf8'));
    const before = files();
    for (const [status, ...flags] of [
      [2, '--in-flight', '10000'],
      [2, '--weights', 'f16'],
      [2, '--kv-memory', '1KiB'],
      [2, '--attention', 'tls://127.0.0.1:9', '--tls-ca', join(folder, 'none.pem')],
      [1, '--attention', 'tcp://127.0.0.1:9'],
    ] as const) {
      const failed = await glinthawk([...runArguments(input, output), '--restart', ...flags]);
      expect([flags, failed.status]).toEqual([flags, status]);
      expect(files()).toEqual(before);
    }
    for (const flag of [['--ordered'], ['--errors', join(folder, 'err.jsonl')]]) {
      const done = await glinthawk([...runArguments(input, output), ...flag]);
      expect([done.status, done.stderr]).toEqual([2, expect.stringContaining(`was run without ${flag[0]}`)]);
      expect(files()).toEqual(before);
    }
    const restarted = await glinthawk([...runArguments(input, output), '--restart']);
    expect([restarted.status, restarted.stderr]).toEqual([0, expect.stringContaining('1 succeeded')]);
  });
});

describe('a job that is stopped', { timeout: 300_000 }, () => {
  it.each(['SIGINT', 'SIGTERM'] as const)(
    'by %s half-way goes on, and gives what an undisturbed one gives',
    async (signal) => {
      const expected = await expectedOfLong();
      const folder = temporaryFolder();
      const [input, output] = [join(folder, "in put's.jsonl"), join(folder, 'out.jsonl')];
      writeFileSync(input, long);
      const running = start(runArguments(input, output));
      await finished(output, 15, running);
      running.child.kill(signal);
      const stopped = await running.ended;
      expect(stopped.status).toBe(130);
      expect(stopped.stderr).toContain('of 60 requests are done and kept in');
      expect(stopped.stderr).toContain(
        `to go on: glinthawk run --model ${exampleModel} --dense wasm --input '${input.replace("'", "'\\''")}'`,
      );
      const kept = readLines(output);
      expect(kept.length).toBeGreaterThanOrEqual(15);
      expect(kept.length).toBeLessThan(60);
      expect(existsSync(`${output}.lock`)).toBe(false);
      const resumed = await glinthawk(runArguments(input, output));
      expect(resumed.stderr).toContain(`60 requests, ${kept.length} done before`);
      expect(resumed.status).toBe(0);
      expect(readLines(output).slice(0, kept.length)).toEqual(kept);
      expectSame(byId(readLines(output)), expected);
    },
  );

  it('by kill -9 again and again has every result once, equal to an undisturbed run', async () => {
    const expected = await expectedOfLong();
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, long);
    let kills = 0;
    // By turns at a random instant (loading, validating, generating), and a random while after some more are finished.
    for (let round = 0, wanted = 2; ; round++) {
      const running = start(runArguments(input, output));
      if (round % 2 === 0) await sleep(Math.random() * 900);
      else {
        wanted += 6;
        await finished(output, wanted, running);
        await sleep(Math.random() * 60);
      }
      if (round < 16) running.child.kill('SIGKILL');
      const { signal, status, stderr } = await running.ended;
      if (signal === null) expect({ status, stderr }).toMatchObject({ status: 0 });
      if (signal === null) break;
      kills++;
    }
    expect(kills).toBeGreaterThanOrEqual(4);
    expectSame(byId(readLines(output)), expected);
    expect(readdirSync(folder).toSorted()).toEqual(['in.jsonl', 'out.jsonl', 'out.jsonl.journal']);
  });

  it('while it reads standard input stops at the first Ctrl-C', async () => {
    const folder = temporaryFolder();
    const running = start([...runArguments('-', join(folder, 'out.jsonl'))], { stdinStaysOpen: true, stdin: 'x' });
    while (!existsSync(join(folder, 'out.jsonl.lock'))) await sleep(10);
    await sleep(50);
    running.child.kill('SIGINT');
    const { status, stderr } = await running.ended;
    expect([status, stderr]).toEqual([130, 'stopping (SIGINT); once more to stop at once\n']);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('is written by one process at a time', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, long);
    const first = start(runArguments(input, output));
    await first.saw(/^attention /m);
    first.child.kill('SIGSTOP'); // It must not be done before the second one loses patience.
    const second = await glinthawk(runArguments(input, output));
    first.child.kill('SIGCONT');
    expect([second.status, second.stderr]).toEqual([
      2,
      expect.stringContaining(`another process (${first.child.pid}) is writing`),
    ]);
    first.child.kill('SIGINT');
    expect((await first.ended).status).toBe(130);
  });
});

function expectSame(found: Map<string | null, ResultLine>, expected: Map<string | null, ResultLine>): void {
  expect([...found.keys()].toSorted()).toEqual([...expected.keys()].toSorted());
  for (const [id, { response }] of expected) {
    expect(found.get(id)?.response.body.choices).toEqual(response.body.choices);
  }
}

async function startNode(
  ...more: readonly string[]
): Promise<{ readonly node: Running; readonly tcp: string; readonly ws: string }> {
  const listen = more.includes('--listen') ? [] : ['--listen', '127.0.0.1:0'];
  const node = start(['attention', ...listen, '--workers', '1', '--memory', '64MiB', ...more]);
  const [, tcp = '', ws = ''] = await node.saw(/listening at (\S+) and (\S+)\n/);
  return { node, tcp, ws };
}

describe('attention nodes', { timeout: 300_000 }, () => {
  it('give what local attention gives, by TCP and WebSocket together, and leave in order', async () => {
    const expected = await expectedOfLong();
    const secret = 'a-secret-of-twenty-letters';
    const one = await startNode('--token', secret);
    const two = await startNode('--token', secret, '--model', exampleModel);
    const output = join(temporaryFolder(), 'out.jsonl');
    const nodes = ['--attention', `${one.tcp},${two.ws}`];
    const refused = await glinthawk([...runArguments('-', output), ...nodes, '--token', 'another-secret-altogether'], {
      stdin: long,
    });
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/^error: .*token/m);
    const { status, stderr } = await glinthawk([...runArguments('-', output), ...nodes], {
      stdin: long,
      env: { GLINTHAWK_TOKEN: secret },
    });
    expect(stderr).toContain('60 succeeded');
    expect(status).toBe(0);
    expectSame(byId(readLines(output)), expected);
    for (const { node } of [one, two]) node.child.kill('SIGTERM');
    for (const { node } of [one, two]) {
      const ended = await node.ended;
      expect([ended.status, ended.stderr]).toEqual([0, expect.stringContaining('draining (SIGTERM)')]);
    }
  });

  it('may be killed: the other one takes over, and the results stay the same', async () => {
    const expected = await expectedOfLong();
    const [one, two] = [await startNode(), await startNode()];
    const output = join(temporaryFolder(), 'out.jsonl');
    const running = start([...runArguments('-', output), '--attention', `${one.tcp},${two.tcp}`], { stdin: long });
    await finished(output, 10, running);
    one.node.child.kill('SIGKILL');
    const { status, stderr } = await running.ended;
    expect(stderr).toContain('60 succeeded');
    expect(status).toBe(0);
    expectSame(byId(readLines(output)), expected);
    two.node.child.kill('SIGTERM');
    await two.node.ended;
  });

  it('may be killed at any instant, again and again, and come back: the results stay the same', async () => {
    const expected = await expectedOfLong();
    const nodes = [await startNode(), await startNode()];
    const output = join(temporaryFolder(), 'out.jsonl');
    const addresses = nodes.map(({ tcp }) => tcp);
    const running = start([...runArguments('-', output), '--attention', addresses.join(','), '--wait-for-nodes'], {
      stdin: long,
    });
    await running.saw(/^attention /m);
    let isOver = false;
    void running.ended.then(() => {
      isOver = true;
    });
    let kills = 0;
    for (let round = 0; !isOver && round < 4; round++) {
      const victim = nodes[round % 2] as (typeof nodes)[number];
      await sleep(Math.random() * 400);
      victim.node.child.kill('SIGKILL');
      await victim.node.ended;
      if (!isOver) kills++;
      nodes[round % 2] = await startNode('--listen', victim.tcp.replace('tcp://', ''));
    }
    const { status, stderr } = await running.ended;
    expect(kills).toBeGreaterThan(0);
    expect(stderr).toContain('60 succeeded');
    expect(status).toBe(0);
    expectSame(byId(readLines(output)), expected);
    for (const { node } of nodes) node.child.kill('SIGTERM');
    for (const { node } of nodes) await node.ended;
  });

  it('may all be gone: the job stops, says why, and goes on when one is there', async () => {
    const expected = await expectedOfLong();
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, long);
    const one = await startNode();
    const running = start([...runArguments(input, output), '--attention', one.tcp]);
    await finished(output, 10, running);
    one.node.child.kill('SIGKILL');
    const { status, stderr } = await running.ended;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^error: /m);
    expect(stderr).toContain('to go on: glinthawk run');
    expect((await glinthawk(runArguments(input, output))).status).toBe(0);
    expectSame(byId(readLines(output)), expected);
  });
});
