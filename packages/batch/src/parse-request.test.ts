import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { byteModel } from './fake-engine.fixture.ts';
import { LineError } from './line-error.ts';
import { parseRequest } from './parse-request.ts';
import { defaultSeed, generationRequests, prepareRequest } from './prepare-request.ts';

const model = byteModel();
const parse = (text: string) => parseRequest(text, 12, model);
const prepare = (text: string) => prepareRequest(parse(text), model);

function refusal(text: string, of = model): string {
  try {
    prepareRequest(parse(text), of);
    return 'accepted';
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(LineError);
    return (thrown as LineError).message;
  }
}

function completion(body: string): string {
  return `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{${body}}}`;
}

function chat(body: string): string {
  return `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{${body}}}`;
}

const hello = '"messages":[{"role":"user","content":"hi"}]';
const batch = (fields: string) => `{${fields},"body":{"prompt":"x"}}`;

/** Line → the whole message. */
const REFUSED: readonly (readonly [string, string])[] = [
  ['[1]', 'line 12: expected a JSON object, found [1]'],
  ['"text"', 'line 12: expected a JSON object, found "text"'],
  ['null', 'line 12: expected a JSON object, found null'],
  ['{}', 'line 12: expected custom_id, method, url and body, or a prompt'],
  ['{"custom_id":"a"}', 'line 12: expected custom_id, method, url and body, or a prompt'],
  ['{"text":"x"}', 'line 12: expected custom_id, method, url and body, or a prompt'],
  [
    batch('"method":"POST","url":"/v1/completions"'),
    'line 12: custom_id is missing: every request of a batch needs its own',
  ],
  [batch('"custom_id":7,"method":"POST"'), 'line 12: custom_id must be a string that is not empty, found 7'],
  [batch('"custom_id":"","method":"POST"'), 'line 12: custom_id must be a string that is not empty, found ""'],
  [batch('"custom_id":"a","url":"/v1/completions"'), 'line 12: method must be "POST", found nothing'],
  [batch('"custom_id":"a","method":"GET","url":"/v1/completions"'), 'line 12: method must be "POST", found "GET"'],
  [
    batch('"custom_id":"a","method":"POST","url":"/v1/embeddings"'),
    'line 12: url must be /v1/chat/completions or /v1/completions, found "/v1/embeddings"',
  ],
  [
    batch('"custom_id":"a","method":"POST"'),
    'line 12: url must be /v1/chat/completions or /v1/completions, found nothing',
  ],
  ['{"custom_id":"a","method":"POST","url":"/v1/completions"}', 'line 12: body must be an object, found nothing'],
  [batch('"custom_id":"a","method":"POST","url":"/v1/completions","priority":1'), 'line 12: priority is not supported'],
  [
    batch('"custom_id":"a","method":"POST","url":"/v1/completions","customid":1'),
    'line 12: customid is not supported; did you mean custom_id?',
  ],
  [completion(''), 'line 12: body.prompt must be a string or an array of token ids, found nothing'],
  [completion('"prompt":""'), 'line 12: body.prompt is empty'],
  [completion('"prompt":[]'), 'line 12: body.prompt is empty'],
  [completion('"prompt":5'), 'line 12: body.prompt must be a string or an array of token ids, found 5'],
  [
    completion('"prompt":["a","b"]'),
    'line 12: body.prompt holds several prompts, which is not supported: give each its own line',
  ],
  [
    completion('"prompt":[[1],[2]]'),
    'line 12: body.prompt holds several prompts, which is not supported: give each its own line',
  ],
  [completion('"prompt":[1,257]'), 'line 12: body.prompt[1] must be a token id from 0 to 256, found 257'],
  [completion('"prompt":[1,-1]'), 'line 12: body.prompt[1] must be a token id from 0 to 256, found -1'],
  [completion('"prompt":[1.5]'), 'line 12: body.prompt[0] must be a token id from 0 to 256, found 1.5'],
  [completion('"prompt":"\\ud800"'), 'line 12: body.prompt holds half of a surrogate pair (\\ud800 to \\udfff alone)'],
  [completion(`"prompt":"x",${hello}`), 'line 12: body.messages does not belong to a completions request'],
  [chat(`"prompt":"x",${hello}`), 'line 12: body.prompt does not belong to a chat request'],
  [chat(''), 'line 12: body.messages must be an array of messages, found nothing'],
  [chat('"messages":[]'), 'line 12: body.messages is empty'],
  [chat('"messages":["hi"]'), 'line 12: body.messages[0] must be an object with role and content, found "hi"'],
  [
    chat('"messages":[{"role":"tool","content":"x"}]'),
    'line 12: body.messages[0].role must be "system", "user" or "assistant", found "tool"',
  ],
  [
    chat('"messages":[{"role":"user"}]'),
    'line 12: body.messages[0].content must be a string or an array of text parts, found nothing',
  ],
  [
    chat('"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]'),
    'line 12: body.messages[0].content[0].type must be "text" (others are not supported), found "image_url"',
  ],
  [
    chat('"messages":[{"role":"assistant","content":"x","tool_calls":[1]}]'),
    'line 12: body.messages[0].tool_calls is not supported',
  ],
  [completion('"prompt":"x","model":3'), 'line 12: body.model must be a string, found 3'],
  [completion('"prompt":"x","max_tokens":0'), 'line 12: body.max_tokens must be an integer of at least 1, found 0'],
  [completion('"prompt":"x","max_tokens":1.5'), 'line 12: body.max_tokens must be an integer of at least 1, found 1.5'],
  [completion('"prompt":"x","max_tokens":"9"'), 'line 12: body.max_tokens must be an integer of at least 1, found "9"'],
  [
    completion('"prompt":"x","max_tokens":1,"max_completion_tokens":2'),
    'line 12: body.max_completion_tokens is 2 and body.max_tokens is 1; give one',
  ],
  [
    completion('"prompt":"x","temperature":"hot"'),
    'line 12: body.temperature must be a number between 0 and 2, found "hot"',
  ],
  [
    completion('"prompt":"x","temperature":2.1'),
    'line 12: body.temperature must be a number between 0 and 2, found 2.1',
  ],
  [completion('"prompt":"x","temperature":-1'), 'line 12: body.temperature must be a number between 0 and 2, found -1'],
  [completion('"prompt":"x","top_p":0'), 'line 12: body.top_p must be a number above 0 and at most 1, found 0'],
  [completion('"prompt":"x","top_p":1.1'), 'line 12: body.top_p must be a number above 0 and at most 1, found 1.1'],
  [
    completion('"prompt":"x","top_k":-2'),
    'line 12: body.top_k must be an integer of at least 1, or 0 or -1 for all, found -2',
  ],
  [completion('"prompt":"x","min_p":2'), 'line 12: body.min_p must be a number between 0 and 1, found 2'],
  [completion('"prompt":"x","seed":1.5'), 'line 12: body.seed must be an integer of at most 64 bits, found 1.5'],
  [completion('"prompt":"x","seed":"1"'), 'line 12: body.seed must be an integer of at most 64 bits, found "1"'],
  [
    completion('"prompt":"x","seed":18446744073709551616'),
    'line 12: body.seed must be an integer of at most 64 bits, found 18446744073709551616',
  ],
  [
    completion('"prompt":"x","stop":["a","b","c","d","e"]'),
    'line 12: body.stop must be a string or an array of at most 4 strings, found ["a","b","c","d","e"]',
  ],
  [
    completion('"prompt":"x","stop":3'),
    'line 12: body.stop must be a string or an array of at most 4 strings, found 3',
  ],
  [completion('"prompt":"x","stop":["a",""]'), 'line 12: body.stop[1] is empty'],
  [completion('"prompt":"x","stop":["a",1]'), 'line 12: body.stop[1] must be a string, found 1'],
  [
    completion('"prompt":"x","stop_token_ids":[257]'),
    'line 12: body.stop_token_ids[0] must be a token id from 0 to 256, found 257',
  ],
  [
    completion('"prompt":"x","stop_token_ids":2'),
    'line 12: body.stop_token_ids must be an array of token ids, found 2',
  ],
  [completion('"prompt":"x","n":0'), 'line 12: body.n must be an integer from 1 to 128, found 0'],
  [completion('"prompt":"x","n":129'), 'line 12: body.n must be an integer from 1 to 128, found 129'],
  [
    completion('"prompt":"x","logprobs":true'),
    'line 12: body.logprobs must be an integer from 0 to 20 in a completions request, found true',
  ],
  [
    completion('"prompt":"x","top_logprobs":2'),
    'line 12: body.top_logprobs belongs to chat requests; here give body.logprobs a number',
  ],
  [chat(`${hello},"logprobs":5`), 'line 12: body.logprobs must be true or false in a chat request, found 5'],
  [
    chat(`${hello},"logprobs":true,"top_logprobs":21`),
    'line 12: body.top_logprobs must be an integer from 0 to 20, found 21',
  ],
  [chat(`${hello},"top_logprobs":2`), 'line 12: body.top_logprobs needs body.logprobs: true'],
  [
    completion('"prompt":"x","frequency_penalty":3'),
    'line 12: body.frequency_penalty must be a number between -2 and 2, found 3',
  ],
  [
    completion('"prompt":"x","presence_penalty":-3'),
    'line 12: body.presence_penalty must be a number between -2 and 2, found -3',
  ],
  [
    completion('"prompt":"x","repetition_penalty":0'),
    'line 12: body.repetition_penalty must be a number above 0 and at most 100, found 0',
  ],
  [
    completion('"prompt":"x","logit_bias":[1]'),
    'line 12: body.logit_bias must be an object from token ids to numbers, found [1]',
  ],
  [
    completion('"prompt":"x","logit_bias":{"a":1}'),
    'line 12: body.logit_bias must have token ids from 0 to 256 as keys, found "a"',
  ],
  [
    completion('"prompt":"x","logit_bias":{"300":1}'),
    'line 12: body.logit_bias must have token ids from 0 to 256 as keys, found "300"',
  ],
  [
    completion('"prompt":"x","logit_bias":{"3":101}'),
    'line 12: body.logit_bias["3"] must be a number between -100 and 100, found 101',
  ],
  [completion('"prompt":"x","ignore_eos":1'), 'line 12: body.ignore_eos must be true or false, found 1'],
  [
    completion('"prompt":"x","return_token_ids":"yes"'),
    'line 12: body.return_token_ids must be true or false, found "yes"',
  ],
  [completion('"prompt":"x","stream":true'), 'line 12: body.stream is not supported, found true'],
  [completion('"prompt":"x","echo":true'), 'line 12: body.echo is not supported, found true'],
  [completion('"prompt":"x","best_of":3'), 'line 12: body.best_of is not supported, found 3'],
  [completion('"prompt":"x","suffix":"y"'), 'line 12: body.suffix is not supported'],
  [chat(`${hello},"tools":[{"type":"function"}]`), 'line 12: body.tools is not supported, found [{"type":"function"}]'],
  [
    chat(`${hello},"response_format":{"type":"json_object"}`),
    'line 12: body.response_format is not supported, found {"type":"json_object"}',
  ],
  [completion('"prompt":"x","logits_processors":["a"]'), 'line 12: body.logits_processors is not supported'],
  [
    completion('"prompt":"x","temprature":1'),
    'line 12: body.temprature is not supported; did you mean body.temperature?',
  ],
  ['{"prompt":"x","temperature":"hot"}', 'line 12: temperature must be a number between 0 and 2, found "hot"'],
  ['{"prompt":"x","max_token":5}', 'line 12: max_token is not supported; did you mean max_tokens?'],
];

/** Parsed, but refused by what the model is. */
const REFUSED_BY_MODEL: readonly (readonly [string, string])[] = [
  [
    completion('"prompt":"abc","max_tokens":509'),
    'line 12: body.max_tokens is 509, with 4 prompt tokens that is 513, over the context of 512',
  ],
  [
    `{"prompt":"${'x'.repeat(600)}"}`,
    'line 12: prompt has 601 tokens, which leaves no room to generate in a context of 512',
  ],
];

describe('a line that is refused', () => {
  it.each(REFUSED)('%s', (line, message) => {
    expect(refusal(line)).toBe(message);
  });

  it.each(REFUSED_BY_MODEL)('%s', (line, message) => {
    expect(refusal(line)).toBe(message);
  });

  it('says where the JSON breaks', () => {
    expect(() => parse('{"prompt": "x",}')).toThrow(/^line 12: is not valid JSON: .*position 15/);
  });

  it('keeps the custom_id where there is one', () => {
    try {
      parse(completion('"prompt":5'));
      expect.unreachable();
    } catch (thrown) {
      expect(thrown).toMatchObject({ customId: 'a', param: 'body.prompt', line: 12, code: 'invalid_request' });
    }
  });

  it('needs what the model lacks', () => {
    const without = byteModel({ tokenizer: null, chatTemplate: null });
    const message = (line: string) => refusal(line, without);
    expect(message(chat(hello))).toBe(
      'line 12: body.messages needs a chat template, and the model bytes has none: use /v1/completions',
    );
    expect(message(completion('"prompt":"x"'))).toBe(
      'line 12: body.prompt needs a tokenizer, and the model bytes has none: give the prompt as token ids',
    );
    expect(message(completion('"prompt":[1],"stop":"x"'))).toBe(
      'line 12: body.stop needs a tokenizer, and the model has none: use stop_token_ids',
    );
    expect(message(completion('"prompt":[1]'))).toBe('accepted');
  });
});

describe('a line that is accepted', () => {
  it('leaves absent what is absent or null', () => {
    expect(parse(completion('"prompt":"x","temperature":null,"stop":null,"seed":null'))).toEqual(
      parse(completion('"prompt":"x"')),
    );
  });

  it('carries fields that ask for nothing', () => {
    const neutral =
      '"user":"me","metadata":{"a":"b"},"stream":false,"store":false,"tools":[],"tool_choice":"none","n":1,' +
      '"response_format":{"type":"text"},"echo":false,"best_of":1';
    expect(parse(completion(`"prompt":"x",${neutral}`))).toEqual(parse(completion('"prompt":"x"')));
  });

  it('is named after its line when it has no custom_id', () => {
    expect(parse('{"prompt":"x"}').customId).toBe('line-12');
    expect(parse('{"prompt":"x","custom_id":"mine"}').customId).toBe('mine');
  });

  it('joins text parts by line ends', () => {
    const parts = '[{"type":"text","text":"a"},{"type":"text","text":"b"}]';
    expect(parse(chat(`"messages":[{"role":"user","content":${parts}}]`)).prompt).toEqual({
      type: 'chat',
      messages: [{ role: 'user', content: 'a\nb' }],
    });
  });

  it('reads every bit of a seed', () => {
    const seed = (text: string) => parse(completion(`"prompt":"x","seed":${text}`)).seed;
    expect(seed('7')).toBe(7n);
    expect(seed('-1')).toBe(2n ** 64n - 1n);
    expect(seed('9007199254740993')).toBe(9007199254740993n);
    expect(seed('18446744073709551615')).toBe(18446744073709551615n);
    expect(parse('{"prompt":"x","seed":9007199254740993}').seed).toBe(9007199254740993n);
  });

  it('fills in defaults: the request, then the model, then OpenAI', () => {
    const defaults = { temperature: 0.7, topP: 0.9, topK: 20 };
    const own = prepareRequest(parse('{"prompt":"x","temperature":0}'), byteModel({ defaults }));
    expect(own.sampling).toMatchObject({ temperature: 0, topP: 0.9, topK: 20, minP: 0, repetitionPenalty: 1 });
    expect(prepare('{"prompt":"x"}').sampling).toMatchObject({ temperature: 1, topP: 1, topK: 0 });
  });

  it('generates 16 tokens of a completion, and what fits of a chat', () => {
    expect(prepare('{"prompt":"x"}').maxTokens).toBe(16);
    expect(prepare(chat(hello)).maxTokens).toBe(512 - '<user>hi'.length);
    expect(prepare(chat(`${hello},"max_completion_tokens":9`)).maxTokens).toBe(9);
  });

  it('gives each choice its own seed, the same in every run', () => {
    const requests = generationRequests(prepare('{"prompt":"x","n":3,"seed":18446744073709551615}'));
    expect(requests.map(({ id, sampling }) => [id, sampling.seed])).toEqual([
      ['12.0', 2n ** 64n - 1n],
      ['12.1', 0n],
      ['12.2', 1n],
    ]);
    expect(prepare('{"prompt":"x","custom_id":"a"}').sampling.seed).toBe(defaultSeed('a'));
    expect(defaultSeed('a')).toBe(0xaf63dc4c8601ec8cn); // FNV-1a's own test vector
    expect(defaultSeed('b')).not.toBe(defaultSeed('a'));
  });
});

describe('whatever a line holds', () => {
  const onlyLineErrors = (text: string) => {
    try {
      prepare(text);
    } catch (thrown) {
      if (!(thrown instanceof LineError)) throw thrown;
      expect(thrown.message.startsWith('line 12: ')).toBe(true);
    }
  };

  it('throws LineError or nothing: any text', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), onlyLineErrors), { numRuns: 2000 });
  });

  it('throws LineError or nothing: any values in known fields', () => {
    const names = ['prompt', 'messages', 'seed', 'stop', 'logit_bias', 'n', 'logprobs', 'top_k', 'max_tokens', 'model'];
    const body = fc.dictionary(fc.constantFrom(...names), fc.jsonValue());
    const line = fc.record({
      custom_id: fc.constantFrom('a', 1, null),
      method: fc.constant('POST'),
      url: fc.constantFrom('/v1/completions', '/v1/chat/completions'),
      body,
    });
    fc.assert(
      fc.property(fc.oneof(line, body), (value) => onlyLineErrors(JSON.stringify(value))),
      { numRuns: 3000 },
    );
  });

  it('says what a parser would have decided silently', () => {
    const message = (text: string) => {
      try {
        parse(text);
        return 'accepted';
      } catch (thrown) {
        return thrown instanceof LineError ? [thrown.detail, thrown.customId] : String(thrown);
      }
    };
    expect(message(completion('"prompt":"x","seed":1,"seed":2'))).toEqual([
      'has the key "seed" twice in one object',
      'a',
    ]);
    expect(message('{"custom_id":"a","custom_id":"b","prompt":"x"}')).toEqual([
      'has the key "custom_id" twice in one object',
      null,
    ]);
    expect(message(completion('"prompt":"x","logit_bias":{"1":5,"01":6}'))[0]).toContain('found "01"');
    expect(message(completion('"prompt":"x","temperature":1e999'))[0]).toBe(
      'body.temperature must be a number between 0 and 2, found a number too large (infinity)',
    );
    for (const seed of ['18446744073709551617', '-9223372036854775809', '1e20', '1.5', '1e999']) {
      expect(message(completion(`"prompt":"x","seed":${seed}`))[0]).toBe(
        `body.seed must be an integer of at most 64 bits, found ${seed}`,
      );
    }
    const deep = '['.repeat(50_000) + ']'.repeat(50_000);
    expect(message(completion(`"prompt":"x","seed":9007199254740993,"metadata":${deep}`))).toEqual([
      'nests deeper than 256 levels',
      'a',
    ]);
  });

  it('survives nesting deeper than the stack', () => {
    const deep = '['.repeat(200_000) + ']'.repeat(200_000);
    onlyLineErrors(deep);
    onlyLineErrors(`{"prompt":${deep}}`);
    onlyLineErrors(`{"prompt":"x","seed":1e30,"metadata":${deep}}`);
    onlyLineErrors(`{"prompt":"x","stop":${deep}}`);
  });
});
