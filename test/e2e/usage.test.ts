/** What a user sees when the command line or the input is wrong, and what help says. */
import { closeSync, existsSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exampleModel } from '../models.ts';
import { glinthawk, readLines, runArguments, temporaryFolder } from './command.ts';

describe('a wrong command line', () => {
  it.each<[string, string[], string]>([
    ['a verb that is none', ['rnu'], "error: unknown command 'rnu'\n(Did you mean run?)"],
    ['a misspelt flag', ['run', '--modle', 'x'], "error: unknown option '--modle'\n(Did you mean --model?)"],
    ['flags missing', ['run', '--model', 'x'], 'error: --input, --output must be given; see glinthawk run --help'],
    ['a choice that is none', ['run', '--kv', 'f8'], 'Allowed choices are f16, bf16, f32, int8.'],
    ['a size that is none', ['run', '--kv-memory', 'lots'], 'expected a size like 4GiB, 512MiB or 1000000.'],
    ['an address that is none', ['run', '--attention', 'here'], '"here" is neither local, local:WORKERS, an address'],
    [
      'a node beyond this machine without a token',
      ['attention', '--listen', '0.0.0.0:0'],
      'without a token would let anybody',
    ],
    ['more workers than a machine bears', ['run', '--attention', 'local:99999'], 'workers on this machine'],
    ['too many workers of a node', ['attention', '--workers', '99999'], 'workers on this machine'],
    ['a fingerprint that is none', ['attention', '--fingerprint', 'zz'], 'expected 64 hexadecimal digits'],
    ['an origin that is none', ['attention', '--origin', 'x'], "expected a page's origin"],
    ['a node without memory', ['attention', '--memory', '1'], 'expected at least 1MiB'],
    [
      'a key that is none',
      ['attention', '--listen', '127.0.0.1:0', '--tls-cert', 'package.json', '--tls-key', 'package.json'],
      'error: package.json and package.json are not a certificate and its private key in PEM',
    ],
    [
      'a bad address beside a good place',
      [...runArguments('none.jsonl', '/tmp/none.out'), '--attention', 'local,tcp://u@host:1'],
      'is no attention node: a token does not belong into the address',
    ],
    ['a flag that people look for', ['attention', '--listen', '--ws'], 'WebSocket is always taken, on the same port'],
    ['figures at an address that is none', ['attention', '--listen', '--metrics', 'a:b:c'], 'expected HOST:PORT'],
    ['a node’s address that is none', ['attention', '--listen', 'a:b:c'], 'expected HOST:PORT'],
    ['no verb', [], 'Usage: glinthawk'],
  ])('%s', async (_, args, message) => {
    const { status, stderr, stdout } = await glinthawk(args);
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect(status).toBe(2);
    expect(stdout).toBe('');
  });

  it('names files that are not there', async () => {
    const folder = temporaryFolder();
    const output = join(folder, 'out.jsonl');
    const noInput = await glinthawk(runArguments(join(folder, 'none.jsonl'), output));
    expect([noInput.status, noInput.stderr]).toEqual([
      2,
      `error: there is no input file ${join(folder, 'none.jsonl')}\n`,
    ]);
    writeFileSync(join(folder, 'in.jsonl'), '{"prompt":"x"}');
    const noModel = await glinthawk([
      ...['run', '--model', join(folder, 'none'), '--input', join(folder, 'in.jsonl'), '--output', output],
    ]);
    expect(noModel.status).toBe(2);
    expect(noModel.stderr).toContain(join(folder, 'none'));
    const noFolder = await glinthawk(runArguments(join(folder, 'in.jsonl'), join(folder, 'a', 'out.jsonl')));
    expect([noFolder.status, noFolder.stderr.split('\n')[0]]).toEqual([
      2,
      `error: there is no folder ${join(folder, 'a')}`,
    ]);
    const itself = await glinthawk(runArguments(join(folder, 'in.jsonl'), join(folder, 'in.jsonl')));
    expect([itself.status, itself.stderr]).toEqual([2, 'error: --input and --output are the same file\n']);
    expect(readdirSync(folder)).toEqual(['in.jsonl']);
  });

  it('is told where certificates or standard output are at fault', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, '{"prompt":"x"}');
    const tls = ['--attention', 'tls://127.0.0.1:9', '--tls-ca', input];
    const garbage = await glinthawk([...runArguments(input, output), ...tls]);
    expect([garbage.status, garbage.stderr]).toEqual([2, expect.stringContaining('holds no certificate in PEM')]);
    if (!existsSync('/dev/full')) return;
    const full = openSync('/dev/full', 'w');
    const { status, stderr } = await glinthawk(['version'], { stdout: full });
    closeSync(full);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^error: standard output can't be written: ENOSPC/)]);
  });

  it('is told nothing by GPU drivers where none is used', async () => {
    const folder = temporaryFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, '{"prompt":"x","max_tokens":1}');
    const { status, stdout, stderr } = await glinthawk([
      ...[...runArguments(input, output), '--dense', 'auto', '--json', '--quiet'],
    ]);
    expect([status, JSON.parse(stdout).status]).toEqual([0, 'complete']);
    const { dense } = JSON.parse((await glinthawk(['doctor', '--json'])).stdout);
    if (dense.kind === 'wasm') expect(stderr).toBe('');
  });

  it('shows a stack with --debug only', async () => {
    const { stderr } = await glinthawk([...runArguments('none.jsonl', '/tmp/none.out'), '--debug']);
    expect(stderr).toMatch(/^ {4}at /m);
  });
});

const BAD = [
  '{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"One","max_tokens":4}}',
  '',
  '{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"prompt":"Two","temperature":"hot"}}',
  'nonsense',
  '{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"Three"}}',
  '{"custom_id":"c","method":"POST","url":"/v1/completions","body":{"prompt":"Four","max_tokens":600}}',
  '{"custom_id":"d","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"Five"}],"tools":[1]}}',
  '{"custom_id":"e","method":"POST","url":"/v1/completions","body":{"prompt":"Six","max_tokens":4}}',
].join('\n');

describe('an input with invalid lines', () => {
  it('is refused whole, each line with its number', async () => {
    const folder = temporaryFolder();
    const input = join(folder, 'in.jsonl');
    writeFileSync(input, BAD);
    const { status, stderr, stdout } = await glinthawk([...runArguments(input, join(folder, 'out.jsonl')), '--json']);
    expect(stderr.split('\n').slice(1)).toEqual([
      `error: 5 of 7 lines of ${input} are invalid; nothing was run`,
      '  line 3: body.temperature must be a number between 0 and 2, found "hot"',
      expect.stringMatching(/^ {2}line 4: is not valid JSON: /),
      '  line 5: custom_id "a" is also on line 1',
      '  line 6: body.max_tokens is 600, with 3 prompt tokens that is 603, over the context of 512',
      '  line 7: body.tools is not supported, found [1]',
      '  hint: mend them, or run the others with --skip-invalid',
      '',
    ]);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ status: 'invalid', requests: 7, invalid: 5 });
    expect(existsSync(join(folder, 'out.jsonl'))).toBe(false);
  });

  it('runs without them when asked, and reports them as errors', async () => {
    const folder = temporaryFolder();
    const [input, output, errors] = ['in.jsonl', 'out.jsonl', 'err.jsonl'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(input, BAD);
    const { status, stdout } = await glinthawk([
      ...runArguments(input, output, '--errors', errors, '--skip-invalid', '--json', '--quiet'),
    ]);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ status: 'complete', requests: 7, succeeded: 2, failed: 5 });
    expect(
      readLines(output)
        .map((line) => line.custom_id)
        .toSorted(),
    ).toEqual(['a', 'e']);
    const refused = readLines(errors).toSorted((a, b) => (a.error?.line ?? 0) - (b.error?.line ?? 0));
    expect(
      refused.map(({ custom_id, error, response }) => [error?.line, custom_id, error?.code, response.status_code]),
    ).toEqual([
      [3, 'b', 'invalid_request', 400],
      [4, null, 'invalid_json', 400],
      [5, 'a', 'duplicate_custom_id', 400],
      [6, 'c', 'context_length_exceeded', 400],
      [7, 'd', 'unsupported_field', 400],
    ]);
  });
});

describe('help', () => {
  it.each([[[]], [['run']], [['attention']], [['doctor']], [['models', 'inspect']], [['version']]])(
    'of %j has examples',
    async (verb) => {
      const { status, stdout } = await glinthawk([...verb, '--help']);
      expect(status).toBe(0);
      expect(stdout).toContain(`Usage: glinthawk ${verb.join(' ')}`.trimEnd());
      expect(stdout).toContain('Examples:\n  $ glinthawk');
    },
  );
});

describe('looking at things', () => {
  it('models inspect says what a model is', async () => {
    const { status, stdout } = await glinthawk(['models', 'inspect', exampleModel, '--json']);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ family: 'llama', parameters: 1_443_456, layers: 6, contextTokens: 512 });
    const text = (await glinthawk(['models', 'inspect', exampleModel])).stdout;
    expect(text).toMatch(/^parameters +1.44 M \(1,443,456\)$/m);
  });

  it('doctor says what is there, what is used and why', async () => {
    const { status, stdout } = await glinthawk(['doctor', '--model', exampleModel, '--json']);
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report.machine.threads).toBeGreaterThan(0);
    expect(report.memoryBandwidth[0].bytesPerSecond).toBeGreaterThan(1e8);
    expect(['webgpu', 'wasm']).toContain(report.dense.kind);
    expect(['relaxed', 'plain']).toContain(report.wasm.kernels);
    expect(['dot', 'pairs']).toContain(report.wasm.int8);
    expect(report.wasm.int8Reason).toMatch(/products an instruction/);
    expect(report.model.bad).toEqual([]);
  });
});
