/** `glinthawk run`: a JSONL file of requests through both tiers, to a JSONL file of results. */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { parseAttentionUrl } from '@glinthawk/attention';
import { type InputSummary, type RequestModel, readRequests, runBatch, summariseInput } from '@glinthawk/batch';
import {
  acquireLock,
  examineJob,
  type InputFile,
  type Job,
  type JobHeader,
  type JobOptions,
  type JobOutlook,
  openInputFile,
  openJob,
} from '@glinthawk/batch/node';
import { AbortedError, GlinthawkError, InputError, toError } from '@glinthawk/core';
import type { EngineApi } from '@glinthawk/engine';
import { describeModel, type Model, openModel } from '@glinthawk/model';
import { shellQuote } from '../arguments.ts';
import { EXIT } from '../failure.ts';
import { count, duration, millions, percent, plural, table } from '../format.ts';
import { onInterrupt } from '../interrupt.ts';
import { Opened } from '../opened.ts';
import { Progress } from '../progress.ts';
import type { Screen } from '../screen.ts';
import { readToken } from '../token.ts';
import { checkJoinFlags } from './joining.ts';
import { checkLengths, openEngine } from './run-engine.ts';
import type { RunFlags } from './run-flags.ts';

/** The line that `--json` prints. */
type Summary = Readonly<Record<string, unknown>>;

export interface RunContext {
  readonly screen: Screen;
  /** What was typed after `glinthawk`, to say how to resume. */
  readonly argv: readonly string[];
  readonly printJson: (value: Summary) => void;
}

/** @returns the exit status @throws GlinthawkError */
export async function run(flags: RunFlags, outer: RunContext): Promise<number> {
  const { screen } = outer;
  let isPrinted = false;
  const context: RunContext = {
    ...outer,
    printJson(value) {
      isPrinted = true;
      outer.printJson(value);
    },
  };
  await refuseSameFiles(flags);
  checkJoinFlags(flags);
  for (const place of flags.attention) if (place.type === 'remote') parseAttentionUrl(place.url);
  const token = await readToken(flags);
  const interrupt = onInterrupt((signal) => screen.line(`stopping (${signal}); once more to stop at once`));
  let examined: PreparedJob | null = null;
  try {
    await using opened = new Opened();
    const prepared = await prepareJob(flags, context, opened, interrupt.signal);
    if (typeof prepared === 'number') return prepared;
    examined = prepared;
    return await generate(flags, context, opened, prepared, token, interrupt.signal);
  } catch (thrown) {
    if (flags.json && !isPrinted) {
      const { message } = toError(thrown);
      const status = interrupt.signal.aborted ? 'interrupted' : thrown instanceof InputError ? 'invalid' : 'failed';
      context.printJson({
        status,
        error: { code: thrown instanceof GlinthawkError ? thrown.code : 'INTERNAL', message },
      });
    }
    if (!interrupt.signal.aborted) throw thrown;
    if (examined !== null) screen.line(`to go on: ${resumeCommand(context.argv, examined.restarted)}`);
    throw thrown instanceof AbortedError ? thrown : new AbortedError();
  } finally {
    interrupt.dispose();
  }
}

/** As it was typed, but for the secret, and for what would throw the results away once more. */
function resumeCommand(argv: readonly string[], restarted: boolean): string {
  const words = argv.filter((word) => !restarted || word !== '--restart');
  const shown = words.map((word, i) =>
    words[i - 1] === '--token' ? '…' : word.startsWith('--token=') ? '--token=…' : word,
  );
  return shellQuote(['glinthawk', ...shown]);
}

async function refuseSameFiles({ input, output, errors }: RunFlags): Promise<void> {
  const identity = async (path: string) => {
    const found = await stat(path).catch(() => null);
    return found === null ? resolve(path) : `${found.dev}:${found.ino}`;
  };
  const same = async (a: string, b: string) => (await identity(a)) === (await identity(b));
  if (output === '-') {
    throw new InputError(
      'OUTPUT_STREAM',
      '--output must be a file: a job can go on only where it can see what is done',
    );
  }
  if (input !== '-' && (await same(input, output)))
    throw new InputError('SAME_FILE', '--input and --output are the same file');
  if (errors === undefined) return;
  if (await same(output, errors)) throw new InputError('SAME_FILE', '--output and --errors are the same file');
  if (input !== '-' && (await same(input, errors)))
    throw new InputError('SAME_FILE', '--input and --errors are the same file');
}

interface PreparedJob {
  readonly input: InputFile;
  readonly sha256: string;
  readonly model: Model;
  readonly requestModel: RequestModel;
  readonly summary: InputSummary;
  readonly jobOptions: JobOptions;
  readonly outlook: JobOutlook;
  /** Whether what an earlier run left is thrown away by now. */
  restarted: boolean;
}

/** Everything that needs no weights; changes no earlier result. @returns an exit status when there is nothing to run */
async function prepareJob(
  flags: RunFlags,
  context: RunContext,
  opened: Opened,
  signal: AbortSignal,
): Promise<PreparedJob | number> {
  const { screen } = context;
  opened.add(await acquireLock(`${flags.output}.lock`), (lock) => lock.release());
  const input = opened.add(await openInputFile(flags.input, { signal }), (file) => file.close());
  const model = opened.add(await openModel(flags.model, { logger: screen.logger(flags.debug ?? false) }), (it) =>
    it.close(),
  );
  screen.line(`model      ${modelLine(model)}`);
  const requestModel = requestModelOf(model, flags);
  const sha256 = await input.sha256();
  const summary = await validate(flags, context, input, requestModel, signal);
  if (summary.invalid > 0 && !flags.skipInvalid) return refuse(flags, context, input, summary);

  const header: JobHeader = {
    input: { name: input.name, sha256 },
    model: { name: model.name, fingerprint: model.fingerprint },
    settings: {
      kv: flags.kv,
      weights: flags.weights,
      wire: flags.wire,
      context: String(flags.context ?? 'model'),
      'generation-defaults': flags.generationDefaults,
    },
  };
  const { output, errors, ordered = false, restart = false } = flags;
  const jobOptions = { output, errors, header, ordered, restart, requests: summary.requests };
  const outlook = await examineJob(jobOptions);
  if (outlook.type === 'finished') {
    const { requests, failed } = outlook.receipt;
    screen.line(`already done: ${count(requests)} of ${plural(requests, 'request')} in ${output}${failedText(failed)}`);
    if (flags.json) {
      context.printJson({
        status: 'complete',
        requests,
        succeeded: requests - failed,
        failed,
        resumed: requests,
        output,
      });
    }
    return EXIT.done;
  }
  const before = outlook.done === 0 ? '' : `, ${count(outlook.done)} done before`;
  const skipped = summary.invalid === 0 ? '' : `, ${count(summary.invalid)} invalid (skipped)`;
  screen.line(`input      ${input.name}: ${plural(summary.requests, 'request')}${before}${skipped}`);
  return { input, sha256, model, requestModel, summary, jobOptions, outlook, restarted: false };
}

function modelLine(model: Model): string {
  const { parameters, tensorKinds, family, contextTokens } = describeModel(model);
  const kinds = tensorKinds.map(({ stored }) => stored).join(', ');
  return `${model.name} (${family}, ${millions(parameters)} parameters, ${kinds}, context ${count(contextTokens)})`;
}

function requestModelOf(model: Model, flags: RunFlags): RequestModel {
  const { config } = model;
  if (flags.context !== undefined && flags.context > config.contextTokens) {
    throw new InputError(
      'CONTEXT',
      `--context ${flags.context} is over the model's context of ${config.contextTokens}`,
    );
  }
  return {
    name: model.name,
    vocabSize: config.vocabSize,
    contextTokens: flags.context ?? config.contextTokens,
    tokenizer: model.tokenizer,
    chatTemplate: model.chatTemplate,
    defaults: flags.generationDefaults === 'model' ? model.generationDefaults : {},
  };
}

async function validate(
  flags: RunFlags,
  { screen }: RunContext,
  input: InputFile,
  model: RequestModel,
  signal: AbortSignal,
): Promise<InputSummary> {
  let shownMs = performance.now();
  const onProgress = (requests: number) => {
    if (performance.now() - shownMs < 250) return;
    shownMs = performance.now();
    screen.block([`validating ${input.name}: ${plural(requests, 'request')}`]);
  };
  const limit = flags.limit === undefined ? {} : { limit: flags.limit };
  const summary = await summariseInput(input.lines(), model, { ...limit, onProgress, signal });
  screen.clearBlock();
  if (summary.requests === 0) throw new InputError('INPUT_EMPTY', `the input ${input.name} has no requests`);
  return summary;
}

function refuse(flags: RunFlags, { screen, printJson }: RunContext, input: InputFile, summary: InputSummary): number {
  const { invalid, requests, errors } = summary;
  screen.important(
    `error: ${count(invalid)} of ${plural(requests, 'line')} of ${input.name} ${invalid === 1 ? 'is' : 'are'} invalid; nothing was run`,
  );
  for (const error of errors) screen.important(`  ${error.message}`);
  if (invalid > errors.length) screen.important(`  and ${count(invalid - errors.length)} more`);
  screen.important('  hint: mend them, or run the others with --skip-invalid');
  if (flags.json) {
    const listed = errors.map(({ line, code, param, detail }) => ({ line, code, param, message: detail }));
    printJson({ status: 'invalid', requests, invalid, errors: listed });
  }
  return EXIT.usage;
}

async function generate(
  flags: RunFlags,
  context: RunContext,
  opened: Opened,
  prepared: PreparedJob,
  token: string | undefined,
  signal: AbortSignal,
): Promise<number> {
  const { screen } = context;
  const { input, sha256, model, requestModel, summary, outlook } = prepared;
  const logger = screen.logger(flags.debug ?? false);
  const startedMs = performance.now();
  // Everything done, or nothing left but lines to report: the files are finished without loading any weights.
  const tiers =
    outlook.done < summary.requests ? await openEngine(flags, screen, opened, model, token, logger, signal) : null;
  const engine = tiers?.engine ?? null;
  if (engine !== null) checkLengths(engine, requestModel, summary, outlook, logger);
  signal.throwIfAborted();
  // Only now: what an earlier run left is safe from everything that can be wrong with the flags.
  const job = await openPreparedJob(prepared, opened);
  const doneBefore = job.done;
  const progress =
    engine === null
      ? null
      : new Progress(
          {
            requests: summary.requests,
            doneBefore,
            answerTokens: answerTokensLeft(summary, outlook),
            done: () => job.done,
            failed: () => job.failed,
            stats: () => engine.stats(),
            nodesMayJoin: tiers?.joining != null,
          },
          screen,
        );
  if (engine !== null) tiers?.joining?.admitTo(engine);
  progress?.start();
  const result = (status: string): Summary => ({
    status,
    requests: summary.requests,
    succeeded: job.done - job.failed,
    failed: job.failed,
    resumed: doneBefore,
    seconds: (performance.now() - startedMs) / 1000,
    output: flags.output,
    errors: flags.errors ?? null,
    engine: engine?.stats() ?? null,
  });
  try {
    if (engine !== null) {
      await runBatch({
        engine,
        requests: readRequests(input.lines(), requestModel, summary, (ordinal) => job.isDone(ordinal)),
        sink: job,
        inputSha256: sha256,
        modelName: model.name,
        tokenizer: model.tokenizer,
        signal,
      });
    }
    await job.finish(flags.limit === undefined || summary.requests < flags.limit);
  } catch (thrown) {
    progress?.stop();
    await job.settle().catch(() => {});
    screen.line(`${count(job.done)} of ${plural(summary.requests, 'request')} are done and kept in ${flags.output}`);
    if (!signal.aborted) screen.line(`to go on: ${resumeCommand(context.argv, true)}`);
    if (flags.json) context.printJson(result(signal.aborted ? 'interrupted' : 'failed'));
    throw thrown;
  }
  progress?.stop();
  report(flags, screen, job, engine, (performance.now() - startedMs) / 1000);
  if (flags.json) context.printJson(result('complete'));
  return EXIT.done;
}

async function openPreparedJob(prepared: PreparedJob, opened: Opened): Promise<Job> {
  prepared.restarted = true;
  const job = await openJob(prepared.jobOptions);
  // It was open a moment ago, and the lock is held.
  if (job.type === 'finished') throw new InputError('JOB_CHANGED', 'the job was finished by somebody else meanwhile');
  return opened.add(job, (it) => it.close());
}

function answerTokensLeft({ answerTokens }: InputSummary, outlook: JobOutlook): number {
  return answerTokens.reduce((sum, tokens, ordinal) => sum + (outlook.isDone(ordinal) ? 0 : tokens), 0);
}

function failedText(failed: number): string {
  return failed === 0 ? '' : `, ${count(failed)} failed`;
}

function report(
  { output, errors }: RunFlags,
  screen: Screen,
  job: Job,
  engine: EngineApi | null,
  seconds: number,
): void {
  const where = errors === undefined ? ` (in ${output}, "error" set)` : ` (in ${errors})`;
  screen.line(
    `done: ${plural(job.requests, 'request')}, ${count(job.done - job.failed)} succeeded` +
      (job.failed === 0 ? '' : `, ${count(job.failed)} failed${where}`) +
      ` → ${output}`,
  );
  if (engine === null) return;
  const {
    promptTokens,
    prefixHitTokens,
    generatedTokens,
    wallMs,
    denseBusyMs,
    attentionBusyMs,
    preemptions,
    nodesLost,
  } = engine.stats();
  const share = (ms: number) => `${Math.round((100 * ms) / Math.max(1, wallMs))} %`;
  const perSecond = (tokens: number) => `${count((1000 * tokens) / Math.max(1, wallMs))} tok/s`;
  const rows: [string, string][] = [
    ['time', `${duration(seconds)} (${seconds.toFixed(1)} s, loading included)`],
    ['prompt', `${count(promptTokens)} tokens, ${perSecond(promptTokens)}`],
    ['generated', `${count(generatedTokens)} tokens, ${perSecond(generatedTokens)}`],
    ['busy', `dense ${share(denseBusyMs)}, attention ${share(attentionBusyMs)} of the time`],
  ];
  if (prefixHitTokens > 0) {
    const hits = `${count(prefixHitTokens)} prompt tokens (${percent(prefixHitTokens / promptTokens)})`;
    rows.push(['shared', `${hits} stood already, of prompts that begin alike`]);
  }
  if (preemptions > 0) rows.push(['preempted', plural(preemptions, 'time')]);
  if (nodesLost > 0) rows.push(['nodes lost', count(nodesLost)]);
  screen.line(table(rows, '  '));
}
