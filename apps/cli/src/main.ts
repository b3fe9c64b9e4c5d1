/** The `glinthawk` command: reads the command line, runs a verb, turns what happens into an exit status. */
import { readFileSync } from 'node:fs';
import { GlinthawkError, toError } from '@glinthawk/core';
import { type Command, CommanderError } from 'commander';
import { describeFailure, EXIT, exitCode } from './failure.ts';
import { createProgram } from './program.ts';
import { Screen } from './screen.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

/** @param argv what was typed after `glinthawk` */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that went away (`| head`), or a log that can't grow, is no reason to lose a job; an answer that can't be given is.
  process.stderr.on('error', () => {});
  process.stdout.on('error', (cause: NodeJS.ErrnoException) => {
    if (cause.code === 'EPIPE') return;
    throw new GlinthawkError('STDOUT', `standard output can't be written: ${cause.message}`, { cause });
  });
  const debug = argv.includes('--debug');
  const fail = (thrown: unknown) => {
    const code = exitCode(toError(thrown));
    // Who interrupted knows why it ends.
    if (code !== EXIT.interrupted || debug) process.stderr.write(`${describeFailure(thrown, debug)}\n`);
    return code;
  };
  process.on('unhandledRejection', (thrown) => process.exit(fail(thrown)));
  process.on('uncaughtException', (thrown) => process.exit(fail(thrown)));
  let status: number = EXIT.done;
  try {
    status = await parse(argv);
  } catch (thrown) {
    status = fail(thrown);
  }
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  await new Promise((resolve) => setImmediate(resolve)); // What went wrong with the last write is told after it.
  process.exit(status);
}

async function parse(argv: readonly string[]): Promise<number> {
  let status: number = EXIT.done;
  const print = (text: string) => process.stdout.write(`${text}\n`);
  // A verb's libraries load when it is asked for, so that help and complaints come at once.
  const program = createProgram(version, {
    run: async ({ quiet = false, ...flags }) => {
      const { run } = await import('./commands/run.ts');
      const printJson = (value: unknown) => print(JSON.stringify(value));
      status = await run(flags, { screen: new Screen({ quiet }), argv, printJson });
    },
    attention: async ({ quiet = false, ...flags }) => {
      const { attention } = await import('./commands/attention.ts');
      status = await attention(flags, { screen: new Screen({ quiet }), print, version });
    },
    doctor: async (flags) => {
      const { doctor } = await import('./commands/doctor.ts');
      status = await doctor(flags, new Screen({ quiet: flags.json ?? false }), print);
    },
    modelsInspect: async (path, flags) => {
      const { modelsInspect } = await import('./commands/models-inspect.ts');
      print(await modelsInspect(path, flags));
    },
    version: async ({ json }) => {
      const { node, v8 } = process.versions;
      print(json ? JSON.stringify({ glinthawk: version, node, v8 }) : version);
    },
  });
  throwRatherThanExit(program);
  if (argv.length === 0) {
    process.stderr.write(program.helpInformation());
    return EXIT.usage;
  }
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) throw thrown;
    return thrown.exitCode === 0 ? EXIT.done : EXIT.usage;
  }
  return status;
}

function throwRatherThanExit(command: Command): void {
  command.exitOverride();
  for (const inner of command.commands) throwRatherThanExit(inner);
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.writableLength === 0) resolve();
    else stream.write('', () => resolve());
  });
}
