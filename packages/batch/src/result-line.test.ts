import { CapacityError, InputError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { byteModel, byteTokenizer } from './fake-engine.fixture.ts';
import { LineError } from './line-error.ts';
import { parseRequest } from './parse-request.ts';
import { prepareRequest } from './prepare-request.ts';
import { errorLine, type FinishedChoice, resultLine } from './result-line.ts';

const identity = { inputSha256: '0123456789abcdef'.repeat(4), line: 12 };
const model = byteModel();

function answer(
  line: string,
  choices: readonly FinishedChoice[],
  tokenizer: typeof byteTokenizer | null = byteTokenizer,
) {
  const prepared = prepareRequest(parseRequest(line, 12, model), model);
  return JSON.parse(resultLine(identity, prepared, choices, { modelName: 'bytes', tokenizer, created: 1_700_000_000 }));
}

// h, then the first byte of é, then the begin token.
const tokenIds = [104, 0xc3, 256];
const logprobs = tokenIds.map((tokenId, i) => ({
  tokenId,
  logprob: -0.5 * i,
  top: [
    { tokenId, logprob: -0.5 * i },
    { tokenId: 97, logprob: Number.NEGATIVE_INFINITY },
  ],
}));
const choice: FinishedChoice = { text: 'h', tokenIds, finishReason: 'stop', logprobs };
const plain: FinishedChoice = { ...choice, logprobs: null };

describe('a result line', () => {
  it('of a completions request', () => {
    expect(
      answer('{"custom_id":"a","prompt":"x","n":2,"model":"mine"}', [plain, { ...plain, finishReason: 'length' }]),
    ).toEqual({
      id: 'batch_req_0123456789abcdef0000000c',
      custom_id: 'a',
      response: {
        status_code: 200,
        request_id: 'req_0123456789abcdef0000000c',
        body: {
          id: 'cmpl-0123456789abcdef0000000c',
          object: 'text_completion',
          created: 1_700_000_000,
          model: 'mine',
          choices: [
            { index: 0, text: 'h', logprobs: null, finish_reason: 'stop' },
            { index: 1, text: 'h', logprobs: null, finish_reason: 'length' },
          ],
          usage: { prompt_tokens: 2, completion_tokens: 6, total_tokens: 8 },
        },
      },
      error: null,
    });
  });

  it('of a chat request', () => {
    const { body } = answer('{"custom_id":"a","messages":[{"role":"user","content":"x"}]}', [plain]).response;
    expect(body).toMatchObject({
      id: 'chatcmpl-0123456789abcdef0000000c',
      object: 'chat.completion',
      model: 'bytes',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'h', refusal: null },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
    });
  });

  it('has token ids where they were asked for', () => {
    const completion = answer('{"prompt":[5],"return_token_ids":true}', [plain]).response.body;
    expect(completion.choices[0]).toMatchObject({ prompt_token_ids: [5], token_ids: tokenIds });
    const chat = answer('{"messages":[{"role":"user","content":"x"}],"return_token_ids":true}', [plain]).response.body;
    expect([chat.prompt_token_ids.length, chat.choices[0].token_ids]).toEqual([7, tokenIds]);
  });

  it('has log-probabilities in the completions shape', () => {
    expect(answer('{"prompt":"x","logprobs":2}', [choice]).response.body.choices[0].logprobs).toEqual({
      tokens: ['h', 'bytes:\\xc3', 'token_id:256'],
      token_logprobs: [0, -0.5, -1],
      top_logprobs: [
        { h: 0, a: -9999 },
        { 'bytes:\\xc3': -0.5, a: -9999 },
        { 'token_id:256': -1, a: -9999 },
      ],
      text_offset: [0, 1, 1],
    });
    const sampled = { ...choice, logprobs: [{ tokenId: 98, logprob: -7, top: [{ tokenId: 97, logprob: -1 }] }] };
    expect(answer('{"prompt":"x","logprobs":1}', [sampled]).response.body.choices[0].logprobs.top_logprobs).toEqual([
      { a: -1, b: -7 },
    ]);
    const bare = { ...choice, logprobs: logprobs.map((token) => ({ ...token, top: [] })) };
    expect(answer('{"prompt":"x","logprobs":0}', [bare]).response.body.choices[0].logprobs.top_logprobs).toBeNull();
  });

  it('has log-probabilities in the chat shape', () => {
    const line = '{"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":2}';
    const { content, refusal } = answer(line, [choice]).response.body.choices[0].logprobs;
    expect(refusal).toBeNull();
    expect(content[0]).toEqual({
      token: 'h',
      logprob: 0,
      bytes: [104],
      top_logprobs: [
        { token: 'h', logprob: 0, bytes: [104] },
        { token: 'a', logprob: -9999, bytes: [97] },
      ],
    });
    expect(content[1]).toMatchObject({ token: '\ufffd', bytes: [0xc3] });
    expect(content[2]).toMatchObject({ token: 'token_id:256', bytes: null });
  });

  it('writes tokens as ids where that was asked for, or there is no tokenizer', () => {
    const asked = answer('{"prompt":"x","logprobs":1,"return_tokens_as_token_ids":true}', [choice]);
    expect(asked.response.body.choices[0].logprobs.tokens).toEqual(['token_id:104', 'token_id:195', 'token_id:256']);
    const without = answer('{"prompt":[1],"logprobs":1}', [choice], null);
    expect(without.response.body.choices[0].logprobs.tokens).toEqual(['token_id:104', 'token_id:195', 'token_id:256']);
  });
});

describe('an error line', () => {
  it.each([
    [new LineError(12, 'invalid_request', 'n is bad', { param: 'body.n' }), 400, 'invalid_request_error', 'body.n'],
    [new InputError('CONTEXT', 'too long'), 400, 'invalid_request_error', null],
    [new CapacityError('KV', 'no room'), 500, 'server_error', null],
  ])('says what went wrong, and whose fault it was', (error, status, type, param) => {
    const { code, message } = error;
    expect(JSON.parse(errorLine(identity, 'a', error))).toEqual({
      id: 'batch_req_0123456789abcdef0000000c',
      custom_id: 'a',
      response: {
        status_code: status,
        request_id: 'req_0123456789abcdef0000000c',
        body: { error: { message, type, param, code } },
      },
      error: { code, message, param, line: 12 },
    });
  });
});
