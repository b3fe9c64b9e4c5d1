/** A batch in memory: the input's order, gzip or not, whatever its lines are, and what is done when it is stopped. */
import { gzipSync } from 'node:zlib';
import { AbortedError } from '@glinthawk/core';
import type { GenerationEvent, GenerationRequest } from '@glinthawk/engine';
import type { Model } from '@glinthawk/model';
import { describe, expect, it } from 'vitest';
import { byteModel, fakeEngine } from '../../../../packages/batch/src/fake-engine.fixture.ts';
import { linesOf, runBatchFile } from './batch-run.ts';
import type { RunContext } from './prompts-run.ts';
import type { Event } from './protocol.ts';

const { tokenizer, chatTemplate } = byteModel();
const model = {
  name: 'bytes',
  config: { vocabSize: 257 },
  tokenizer,
  chatTemplate,
  generationDefaults: {},
} as unknown as Model;

type Session = RunContext['session'];

function context(
  generate: Session['generate'],
  abort = new AbortController(),
): { context: RunContext; events: Event[] } {
  const events: Event[] = [];
  const session = { model, contextTokens: 512, generate } as Session;
  return {
    events,
    context: { session, signal: abort.signal, send: (event) => events.push(event), onTokens: () => {} },
  };
}

const engine = fakeEngine({ concurrency: 5 });
const generate: Session['generate'] = (requests, { signal }) =>
  engine.generate(requests, { signal }) as AsyncGenerator<GenerationEvent, void, undefined>;

const job = (input: Blob, skipInvalid = true) => ({ type: 'batch', run: 3, input, skipInvalid }) as const;

async function resultsOf(events: readonly Event[]) {
  const event = events.find((each) => each.type === 'batchResults');
  if (event?.type !== 'batchResults') throw new Error('no results');
  const parse = async (blob: Blob) => {
    const text = (await blob.text()).trim();
    return text === '' ? [] : text.split('\n').map((line) => JSON.parse(line));
  };
  return { complete: event.complete, results: await parse(event.results), errors: await parse(event.errors) };
}

const lines = Array.from({ length: 40 }, (_, i) =>
  i % 10 === 7
    ? '{"prompt": 7}'
    : JSON.stringify({ custom_id: `r${i}`, prompt: `text ${i}`, max_tokens: 4, n: 1 + (i % 2) }),
);

describe('runBatchFile', () => {
  it.each(['plain', 'gzip'])('answers every line in the input’s order, %s', async (how) => {
    const bytes = new TextEncoder().encode(lines.join('\r\n'));
    const input = new Blob([how === 'gzip' ? new Uint8Array(gzipSync(bytes)) : bytes]);
    const { context: run, events } = context(generate);
    await runBatchFile(job(input), run);
    const { complete, results, errors } = await resultsOf(events);
    expect(complete).toBe(true);
    expect(results.map(({ custom_id }) => custom_id)).toEqual(
      Array.from({ length: 40 }, (_, i) => `r${i}`).filter((_, i) => i % 10 !== 7),
    );
    expect(errors.map(({ error }) => error.line)).toEqual([8, 18, 28, 38]);
    expect(events.findLast(({ type }) => type === 'batch')).toMatchObject({
      succeeded: 36,
      failed: 4,
      summary: { requests: 40, invalid: 4 },
    });
  });

  it('refuses bad lines by their number before anything runs', async () => {
    let ran = false;
    const { context: run, events } = context(async function* () {
      ran = true;
      yield* [];
    });
    await expect(runBatchFile(job(new Blob([lines.join('\n')]), false), run)).rejects.toThrow(/line 8: .*and 3 more/);
    expect(ran).toBe(false);
    expect(events).toMatchObject([{ type: 'batch', summary: { invalid: 4 } }]);
  });

  it('refuses a file of nothing', async () => {
    const { context: run } = context(generate);
    await expect(runBatchFile(job(new Blob(['\n \n'])), run)).rejects.toMatchObject({ code: 'EMPTY_INPUT' });
  });

  it('gives what is done when it is stopped', async () => {
    const abort = new AbortController();
    const { context: run, events } = context(async function* (requests, { signal }) {
      let ended = 0;
      for await (const event of generate(requests, { signal, onRestart: () => {} })) {
        yield event;
        if (++ended === 5) abort.abort(new AbortedError());
        signal.throwIfAborted();
      }
    }, abort);
    await expect(runBatchFile(job(new Blob([lines.join('\n')])), run)).rejects.toThrow(AbortedError);
    const { complete, results } = await resultsOf(events);
    expect(complete).toBe(false);
    expect(results.length).toBeGreaterThan(0);
  });

  it('gives requests ids that other runs don’t have', async () => {
    const ids: string[] = [];
    const { context: run } = context(async function* (requests, how) {
      async function* noted(): AsyncGenerator<GenerationRequest> {
        for await (const request of requests) {
          ids.push(request.id);
          yield request;
        }
      }
      yield* generate(noted(), how);
    });
    await runBatchFile(job(new Blob(['{"prompt": "a"}\n{"prompt": "b", "n": 2}'])), run);
    expect(ids).toEqual(['3.1.0', '3.2.0', '3.2.1']);
  });
});

it('damaged gzip is told from damaged lines', async () => {
  const whole = gzipSync(lines.join('\n'));
  const cut = new Blob([new Uint8Array(whole.subarray(0, whole.length - 20))]);
  const read = async () => {
    for await (const _ of linesOf(cut, new AbortController().signal));
  };
  await expect(read()).rejects.toMatchObject({ code: 'INPUT_GZIP' });
});
