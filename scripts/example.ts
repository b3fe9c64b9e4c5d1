/**
 * `npm run example`: the main job on the embedded model, as `glinthawk run` does it (needs no network and no GPU), then a few
 * of its results to read. Arguments go to `glinthawk run`.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const model = join('examples', 'tale-1m');
const input = join('examples', 'prompts.jsonl');
const output = join('.cache', 'example', 'results.jsonl');
const SHOWN = ['lily', 'boat', 'secret-door', 'secret-door-again', 'two-endings', 'chat-fox'];
const WIDTH = 88;

mkdirSync(join(root, '.cache', 'example'), { recursive: true });
const args = ['run', '--model', model, '--input', input, '--output', output, '--ordered', '--restart'];
console.error(`$ npx glinthawk ${args.join(' ')}\n`);
const { status } = spawnSync(
  process.execPath,
  [join(root, 'apps', 'cli', 'bin', 'glinthawk.js'), ...args, ...process.argv.slice(2)],
  { cwd: root, stdio: 'inherit' },
);
if (status !== 0) process.exit(status ?? 1);

interface Request {
  readonly custom_id?: string;
  readonly body?: { readonly prompt?: unknown; readonly messages?: readonly { readonly content: unknown }[] };
}
interface Result {
  readonly custom_id: string;
  readonly response: {
    readonly body: {
      readonly choices: readonly { readonly text?: string; readonly message?: { readonly content: string } }[];
    };
  };
}

function read<T>(path: string): T[] {
  return readFileSync(join(root, path), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
}

function wrapped(text: string): string {
  const lines: string[] = [];
  for (const paragraph of text.split(/\s*\n\s*/)) {
    let line = ' ';
    for (const word of paragraph.split(' ')) {
      if (line.length + word.length + 1 > WIDTH) {
        lines.push(line);
        line = ' ';
      }
      line += ` ${word}`;
    }
    lines.push(line);
  }
  return lines.join('\n');
}

const requests = read<Request>(input);
const bold = (text: string) => (process.stdout.isTTY ? `\x1b[1m${text}\x1b[22m` : text);
for (const { custom_id, response } of read<Result>(output)) {
  if (!SHOWN.includes(custom_id)) continue;
  const { prompt, messages } = requests.find((request) => request.custom_id === custom_id)?.body ?? {};
  const asked = String(prompt ?? messages?.map(({ content }) => content).join(''));
  for (const { text, message } of response.body.choices) {
    console.log(`\n${bold(custom_id)}\n${wrapped(asked + (text ?? message?.content ?? ''))}`);
  }
}
console.log(`\nAll ${requests.length} results: ${output}`);
