/** The command line: verbs, flags, their help and examples. What they do is in commands/. */
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  attentionPlaces,
  byteSize,
  fingerprintHex,
  type ListenAddress,
  listenAddress,
  nodeMemory,
  pageOrigin,
  positiveInteger,
  positiveIntegerOrAuto,
  workerCount,
} from './arguments.ts';
import type { AttentionCommandFlags } from './commands/attention.ts';
import type { DoctorFlags } from './commands/doctor.ts';
import type { RunFlags } from './commands/run-flags.ts';

/** As DEFAULT_ATTENTION_PORT of @glinthawk/attention, which is too large to load for help. */
const ATTENTION_PORT = 7411;
/** Next to it; where nodes join is 7412. */
const METRICS_PORT = 7413;

export interface Verbs {
  run(flags: RunFlags & { readonly quiet?: boolean }): Promise<void>;
  attention(flags: AttentionCommandFlags & { readonly quiet?: boolean }): Promise<void>;
  doctor(flags: DoctorFlags): Promise<void>;
  modelsInspect(path: string, flags: { readonly json?: boolean }): Promise<void>;
  version(flags: { readonly json?: boolean }): Promise<void>;
}

function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}\n`;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 86_400)) throw new InvalidArgumentError('expected seconds, 0 to 86400.');
  return value;
}

/** Later than commander's own check, which would hide the remark that `--modle` was meant to be `--model`. */
function requireOptions(command: Command, names: readonly string[]): void {
  const missing = names.filter((name) => command.getOptionValue(name) === undefined).map((name) => `--${name}`);
  if (missing.length === 0) return;
  command.error(`error: ${missing.join(', ')} must be given; see glinthawk ${command.name()} --help`);
}

function tokenOptions(command: Command): Command {
  return command
    .option('--token <text>', 'secret shared with attention nodes (better: --token-file, or $GLINTHAWK_TOKEN)')
    .option('--token-file <file>', 'file that holds the secret');
}

export function createProgram(version: string, verbs: Verbs): Command {
  const program = new Command('glinthawk')
    .description('Batch LLM generation on two tiers: dense layers on a GPU or WebAssembly, attention on CPUs.')
    .version(version, '-V, --version')
    .showSuggestionAfterError(true)
    .addHelpText(
      'after',
      `${examples(
        'glinthawk run --model examples/tale-1m --input examples/prompts.jsonl --output out.jsonl',
        'glinthawk attention --listen 127.0.0.1:7411',
        'glinthawk doctor',
      )}\nExit status: 0 done, 1 failed while running, 2 bad usage or input, 130 interrupted.`,
    );

  addRun(program, verbs);
  addAttention(program, verbs);
  program
    .command('doctor')
    .description('say what this machine has, what will be used of it, and why')
    .option('--model <path>', 'also read every weight of this model and look for NaN and infinity')
    .option('--json', 'print the report as JSON')
    .option('--debug', 'show stack traces')
    .addHelpText('after', examples('glinthawk doctor', 'glinthawk doctor --model examples/tale-1m'))
    .action((flags: DoctorFlags) => verbs.doctor(flags));
  const models = program.command('models').description('look at models');
  models
    .command('inspect')
    .description('say what a model folder or GGUF file holds; reads no weights')
    .argument('<path>', 'Hugging Face folder or .gguf file')
    .option('--json', 'print it as JSON')
    .option('--debug', 'show stack traces')
    .addHelpText('after', examples('glinthawk models inspect examples/tale-1m'))
    .action((path: string, flags: { json?: boolean }) => verbs.modelsInspect(path, flags));
  program
    .command('version')
    .description('print the version')
    .option('--json', 'with those of Node and V8, as JSON')
    .addHelpText('after', examples('glinthawk version'))
    .action((flags: { json?: boolean }) => verbs.version(flags));
  return program;
}

function addRun(program: Command, verbs: Verbs): void {
  const run = program
    .command('run')
    .description(
      'run a JSONL file of requests (OpenAI Batch lines, or {"prompt": …}) and write a JSONL file of results',
    )
    .option('--model <path>', 'Hugging Face folder or .gguf file (required)')
    .option('--input <file>', 'requests, one a line; gzip is recognised, - is standard input (required)')
    .option('--output <file>', 'results; beside it stands its journal, by which a killed job goes on (required)')
    .option('--errors <file>', 'error lines go here rather than among the results')
    .optionsGroup('The job:')
    .option('--ordered', 'write results in the order of the input, not of completion')
    .option('--skip-invalid', 'report invalid lines as errors and run the others')
    .option('--restart', 'discard what an earlier run left')
    .option('--limit <n>', 'only the first n requests', positiveInteger)
    .addOption(
      new Option(
        '--generation-defaults <from>',
        "for fields that a request leaves out: the model's generation_config, or OpenAI's",
      )
        .choices(['model', 'openai'])
        .default('model'),
    )
    .option('--context <tokens>', "longest prompt and answer together (default: the model's)", positiveInteger)
    .optionsGroup('Dense tier:')
    .addOption(
      new Option('--dense <backend>', 'where dense layers run').choices(['auto', 'webgpu', 'wasm']).default('auto'),
    )
    .addOption(
      new Option('--weights <dtype>', 'on a GPU; auto is f16 there').choices(['auto', 'f32', 'f16']).default('auto'),
    )
    .option('--allow-software-gpu', 'let WebGPU run on the CPU (lavapipe, SwiftShader), for tests')
    .optionsGroup('Attention tier:')
    .addOption(
      new Option(
        '--attention <where>',
        'local, local:WORKERS, nodes as tcp://, tls://, ws://, wss://host:port, or ws-listen://, wss-listen://HOST:PORT ' +
          'where tabs and other nodes join; several by commas',
      )
        .argParser(attentionPlaces)
        .default(attentionPlaces('local'), 'local'),
    )
    .addOption(
      new Option('--kv <dtype>', 'what the KV cache holds').choices(['f16', 'bf16', 'f32', 'int8']).default('f16'),
    )
    .option('--kv-memory <size>', 'KV memory of local attention, like 4GiB (default: half of what is free)', byteSize)
    .addOption(
      new Option('--wire <dtype>', 'how tensors travel to remote nodes').choices(['f32', 'f16', 'int8']).default('f32'),
    )
    .option('--tls-ca <file>', "certificates (PEM) to trust for tls:// instead of the system's")
    .option('--tls-cert <file>', 'certificate (PEM) of wss-listen://')
    .option('--tls-key <file>', 'its private key (PEM)')
    .option(
      '--origin <origins...>',
      'web pages that may join at ws-listen://, as https://example.org (default: any, as the token decides)',
      pageOrigin,
    )
    .option('--wait-for-nodes', 'when every node is gone, wait for one to come back rather than stop');
  tokenOptions(run)
    .optionsGroup('Scheduling:')
    .option('--micro-batch-rows <n>', 'rows that go through a layer together, or auto', positiveIntegerOrAuto, 'auto')
    .option('--in-flight <n>', 'micro-batches under way at once, or auto', positiveIntegerOrAuto, 'auto')
    .option('--prefill-chunk <tokens>', 'tokens of one prompt in a step, at most', positiveInteger, 512)
    .option('--no-prefix-sharing', 'compute and store every prompt by itself, also where several begin alike')
    .addOption(
      new Option('--policy <name>', 'which micro-batch goes first')
        .choices(['deepest-first', 'fcfs', 'starvation-first'])
        .default('deepest-first'),
    )
    .optionsGroup('What is shown:')
    .option('--quiet', 'no progress, only errors')
    .option('--json', 'print a summary as one JSON object on standard output at the end')
    .option('--debug', 'show stack traces and what the library says')
    .addHelpText(
      'after',
      `${examples(
        'glinthawk run --model examples/tale-1m --input examples/prompts.jsonl --output out.jsonl',
        'zcat prompts.jsonl.gz | glinthawk run --model ./model --input - --output out.jsonl --errors err.jsonl',
        'glinthawk run --model ./model --input in.jsonl --output out.jsonl --attention local,tcp://10.0.0.7:7411 --token-file secret',
        'glinthawk run --model ./model --input in.jsonl --output out.jsonl --attention ws-listen://0.0.0.0:7412',
      )}\nWith ws-listen:// the job says which address to open: that browser tab then does part of its attention, until it is closed.
Nodes that join need the token; where none is given one is made and shown.

Ctrl-C stops cleanly; the same command goes on where it stopped.`,
    )
    .action((flags: RunFlags) => {
      requireOptions(run, ['model', 'input', 'output']);
      return verbs.run(flags);
    });
}

/** An address that was not typed is true. */
type TypedAttentionFlags = Omit<AttentionCommandFlags, 'listen' | 'metrics'> & {
  readonly listen: ListenAddress | true;
  readonly metrics?: ListenAddress | true;
};

function addAttention(program: Command, verbs: Verbs): void {
  const attention = program
    .command('attention')
    .description('run an attention node: KV cache and attention for engines that connect')
    .option(
      '--listen [host:port]',
      `where to listen, for TCP and WebSocket both; port 0 takes a free one (default: 127.0.0.1:${ATTENTION_PORT}) (required)`,
      (text: string) => listenAddress(text, ATTENTION_PORT),
    )
    .option('--workers <n>', 'threads that kernels run on, as many at once (default: one a core)', workerCount)
    .option('--memory <size>', 'KV at most, like 8GiB (default: three quarters of what is free)', nodeMemory);
  tokenOptions(attention)
    .option('--tls-cert <file>', 'certificate (PEM): TLS for TCP and WebSocket both')
    .option('--tls-key <file>', 'its private key (PEM)')
    .option('--model <path>', 'serve this model only')
    .option(
      '--fingerprint <hex>',
      'serve the model with this fingerprint only (see glinthawk models inspect)',
      fingerprintHex,
    )
    .option(
      '--origin <origins...>',
      'web pages that may connect by WebSocket, as https://example.org, or * (default: none)',
      pageOrigin,
    )
    .addOption(new Option('--ws').hideHelp())
    .option('--drain-seconds <n>', 'how long an engine may take to leave when the node is stopped', seconds, 5)
    .option('--stats-seconds <n>', 'a line of statistics so often; 0 for none', seconds, 10)
    .option(
      '--metrics [host:port]',
      `serve figures for Prometheus at /metrics, and /healthz, there (default: 127.0.0.1:${METRICS_PORT}; without the flag nowhere)`,
      (text: string) => listenAddress(text, METRICS_PORT),
    )
    .option('--quiet', 'only the address and errors')
    .option('--debug', 'show stack traces and what the library says')
    .addHelpText(
      'after',
      examples(
        'glinthawk attention --listen 127.0.0.1:7411',
        'glinthawk attention --listen 0.0.0.0:7411 --token-file secret --memory 8GiB',
        'glinthawk attention --listen :7411 --token-file secret --tls-cert cert.pem --tls-key key.pem',
        'glinthawk attention --listen --token-file secret --origin http://localhost:4173',
        'glinthawk attention --listen --metrics',
      ),
    )
    .action(({ listen, metrics, ...flags }: TypedAttentionFlags) => {
      requireOptions(attention, ['listen']);
      const local = (port: number) => listenAddress('127.0.0.1', port);
      return verbs.attention({
        ...flags,
        listen: listen === true ? local(ATTENTION_PORT) : listen,
        ...(metrics === undefined ? {} : { metrics: metrics === true ? local(METRICS_PORT) : metrics }),
      });
    });
}
