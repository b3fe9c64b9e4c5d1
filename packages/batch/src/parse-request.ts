/**
 * One JSONL line → BatchRequest. Two forms: OpenAI Batch (`custom_id`, `method`, `url`, `body`) and the plain one, the body's
 * fields at the top with an optional `custom_id`. A field that would change the answer and isn't supported is an error; so is
 * an unknown one. Pure: no tokenizer, no files.
 */
import {
  type AnswerKind,
  type BatchMessage,
  type BatchPrompt,
  type BatchRequest,
  MAX_CHOICES,
  MAX_CUSTOM_ID_CHARACTERS,
  MAX_STOP_STRINGS,
  MAX_STOP_TOKEN_IDS,
  MAX_TOP_LOGPROBS,
} from './batch-request.ts';
import { Fields, isObject, type JsonObject, nearest, quote, shortened } from './fields.ts';
import { LineError } from './line-error.ts';
import { findJsonFlaw, MAX_JSON_DEPTH } from './scan-json.ts';

const BATCH_FIELDS = new Set(['custom_id', 'method', 'url', 'body']);
const URLS: ReadonlyMap<string, AnswerKind> = new Map([
  ['/v1/chat/completions', 'chat'],
  ['/v1/completions', 'completion'],
]);

const BODY_FIELDS = new Set([
  'model',
  'messages',
  'prompt',
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'seed',
  'stop',
  'stop_token_ids',
  'n',
  'logprobs',
  'top_logprobs',
  'frequency_penalty',
  'presence_penalty',
  'repetition_penalty',
  'logit_bias',
  'ignore_eos',
  'return_token_ids',
  'return_tokens_as_token_ids',
]);

/** Fields that cannot change an answer, whatever they say. */
const IGNORED_FIELDS = new Set(['user', 'metadata', 'safety_identifier', 'prompt_cache_key']);

/** Unsupported fields that real files carry at a value which asks for nothing: exactly that value is accepted. */
const NEUTRAL_VALUES: ReadonlyMap<string, (value: unknown) => boolean> = new Map([
  ['stream', (value) => value === false],
  ['store', (value) => value === false],
  ['echo', (value) => value === false],
  ['best_of', (value) => value === 1],
  ['use_beam_search', (value) => value === false],
  ['length_penalty', (value) => value === 1],
  ['min_tokens', (value) => value === 0],
  ['include_stop_str_in_output', (value) => value === false],
  ['skip_special_tokens', (value) => value === true],
  ['spaces_between_special_tokens', (value) => value === true],
  ['add_generation_prompt', (value) => value === true],
  ['continue_final_message', (value) => value === false],
  ['tools', (value) => Array.isArray(value) && value.length === 0],
  ['tool_choice', (value) => value === 'none'],
  ['response_format', (value) => isObject(value) && Object.keys(value).length === 1 && value.type === 'text'],
  ['service_tier', (value) => value === 'auto' || value === 'default'],
]);

const ROLES = ['system', 'user', 'assistant'] as const;
const MESSAGE_FIELDS = new Set(['role', 'content', 'name']);

export interface ParseOptions {
  /** Token ids are below it. */
  readonly vocabSize: number;
}

/** @throws LineError and nothing else, whatever the text */
export function parseRequest(text: string, line: number, options: ParseOptions): BatchRequest {
  const value = parseJson(text, line);
  refuseFlaws(text, line, value);
  if (!isObject(value)) {
    throw new LineError(line, 'invalid_request', `expected a JSON object, found ${quote(value)}`);
  }
  const isBatch = ['method', 'url', 'body'].some((name) => Object.hasOwn(value, name));
  return isBatch ? batchForm(value, line, text, options) : plainForm(value, line, text, options);
}

function parseJson(text: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LineError(line, 'invalid_json', `is not valid JSON: ${reason}`, { cause });
  }
}

/** What a parser would silently decide for the user. */
function refuseFlaws(text: string, line: number, value: unknown): void {
  const flaw = findJsonFlaw(text);
  if (flaw === null) return;
  if (flaw.type === 'depth') {
    throw new LineError(line, 'invalid_request', `nests deeper than ${MAX_JSON_DEPTH} levels`, {
      customId: soundCustomId(value, line),
    });
  }
  const detail = `has the key ${quote(flaw.key)} twice in one object`;
  const customId = flaw.key === 'custom_id' ? null : soundCustomId(value, line);
  throw new LineError(line, 'invalid_request', detail, { param: flaw.key, customId });
}

function soundCustomId(value: unknown, line: number): string | null {
  try {
    return isObject(value) ? readCustomId(new Fields(line, value, '')) : null;
  } catch {
    return null;
  }
}

function batchForm(value: JsonObject, line: number, text: string, options: ParseOptions): BatchRequest {
  const customId = readCustomId(new Fields(line, value, ''));
  const fields = new Fields(line, value, '', customId);
  if (customId === null) {
    throw new LineError(line, 'missing_custom_id', 'custom_id is missing: every request of a batch needs its own', {
      param: 'custom_id',
    });
  }
  refuseOthers(fields, BATCH_FIELDS);
  const method = fields.get('method');
  if (method !== 'POST') fields.mismatch('method', '"POST"', method);
  const url = fields.get('url');
  const kind = typeof url === 'string' ? URLS.get(url) : undefined;
  if (kind === undefined) {
    return fields.fail('url', `must be ${[...URLS.keys()].join(' or ')}, found ${quote(url)}`, 'invalid_url');
  }
  const body = fields.get('body');
  if (!isObject(body)) return fields.mismatch('body', 'an object', body);
  return readBody(new Fields(line, body, 'body.', customId), kind, customId, 'body.', text, options);
}

function plainForm(value: JsonObject, line: number, text: string, options: ParseOptions): BatchRequest {
  const customId = readCustomId(new Fields(line, value, '')) ?? `line-${line}`;
  const { custom_id: _, ...body } = value;
  const fields = new Fields(line, body, '', customId);
  if (!fields.has('prompt') && !fields.has('messages')) {
    throw new LineError(line, 'invalid_request', 'expected custom_id, method, url and body, or a prompt', { customId });
  }
  return readBody(fields, fields.has('messages') ? 'chat' : 'completion', customId, '', text, options);
}

function readCustomId(fields: Fields): string | null {
  const customId = fields.string('custom_id', 'a string that is not empty');
  if (customId === undefined) return null;
  if (customId === '') return fields.mismatch('custom_id', 'a string that is not empty');
  if (customId.length > MAX_CUSTOM_ID_CHARACTERS) {
    return fields.mismatch('custom_id', `at most ${MAX_CUSTOM_ID_CHARACTERS} characters`);
  }
  return customId;
}

function refuseOthers(fields: Fields, known: ReadonlySet<string>): void {
  for (const name of fields.names()) {
    if (known.has(name) || !fields.has(name)) continue;
    const meant = nearest(name, known);
    fields.fail(
      name,
      `is not supported${meant === null ? '' : `; did you mean ${fields.pathOf(meant)}?`}`,
      'unsupported_field',
    );
  }
}

function refuseUnsupported(fields: Fields, kind: AnswerKind): void {
  const other = kind === 'chat' ? 'prompt' : 'messages';
  if (fields.has(other)) {
    fields.fail(other, `does not belong to a ${kind === 'chat' ? 'chat' : 'completions'} request`, 'unsupported_field');
  }
  for (const name of fields.names()) {
    if (!fields.has(name) || BODY_FIELDS.has(name) || IGNORED_FIELDS.has(name)) continue;
    const isNeutral = NEUTRAL_VALUES.get(name);
    if (isNeutral?.(fields.get(name))) continue;
    if (isNeutral !== undefined) {
      fields.fail(name, `is not supported, found ${quote(fields.get(name))}`, 'unsupported_field');
    }
    const meant = nearest(name, BODY_FIELDS);
    fields.fail(
      name,
      `is not supported${meant === null ? '' : `; did you mean ${fields.pathOf(meant)}?`}`,
      'unsupported_field',
    );
  }
}

function readBody(
  fields: Fields,
  kind: AnswerKind,
  customId: string,
  path: string,
  text: string,
  options: ParseOptions,
): BatchRequest {
  refuseUnsupported(fields, kind);
  return {
    line: fields.line,
    customId,
    kind,
    path,
    model: fields.string('model') ?? null,
    prompt: kind === 'chat' ? readMessages(fields) : readPrompt(fields, options.vocabSize),
    maxTokens: readMaxTokens(fields),
    temperature: fields.number('temperature', 0, 2, 'a number between 0 and 2') ?? null,
    topP: readTopP(fields),
    topK: readTopK(fields),
    minP: fields.number('min_p', 0, 1, 'a number between 0 and 1') ?? null,
    seed: readSeed(fields, text),
    frequencyPenalty: fields.number('frequency_penalty', -2, 2, 'a number between -2 and 2') ?? 0,
    presencePenalty: fields.number('presence_penalty', -2, 2, 'a number between -2 and 2') ?? 0,
    repetitionPenalty: readRepetitionPenalty(fields),
    logitBias: readLogitBias(fields, options.vocabSize),
    stop: readStop(fields),
    stopTokenIds: readStopTokenIds(fields, options.vocabSize),
    ignoreEos: fields.boolean('ignore_eos') ?? false,
    n: fields.integer('n', 1, MAX_CHOICES, `an integer from 1 to ${MAX_CHOICES}`) ?? 1,
    topLogprobs: kind === 'chat' ? readChatLogprobs(fields) : readCompletionLogprobs(fields),
    returnTokenIds: fields.boolean('return_token_ids') ?? false,
    tokensAsIds: fields.boolean('return_tokens_as_token_ids') ?? false,
  };
}

function readPrompt(fields: Fields, vocabSize: number): BatchPrompt {
  const prompt = fields.get('prompt');
  if (typeof prompt === 'string') {
    if (prompt === '') return fields.fail('prompt', 'is empty');
    return { type: 'text', text: fields.wellFormed('prompt', prompt) };
  }
  if (!Array.isArray(prompt)) return fields.mismatch('prompt', 'a string or an array of token ids');
  if (prompt.length === 0) return fields.fail('prompt', 'is empty');
  if (typeof prompt[0] === 'string' || Array.isArray(prompt[0])) {
    return fields.fail('prompt', 'holds several prompts, which is not supported: give each its own line');
  }
  return { type: 'tokens', ids: fields.tokenIds('prompt', vocabSize) ?? [] };
}

function readMessages(fields: Fields): BatchPrompt {
  const messages = fields.get('messages');
  if (!Array.isArray(messages)) return fields.mismatch('messages', 'an array of messages');
  if (messages.length === 0) return fields.fail('messages', 'is empty');
  return { type: 'chat', messages: messages.map((message, i) => readMessage(fields, `messages[${i}]`, message)) };
}

function readMessage(outer: Fields, path: string, value: unknown): BatchMessage {
  if (!isObject(value)) return outer.mismatch(path, 'an object with role and content', value);
  const fields = new Fields(outer.line, value, `${outer.pathOf(path)}.`, outer.customId);
  refuseOthers(fields, MESSAGE_FIELDS);
  const role = ROLES.find((known) => known === value.role);
  if (role === undefined) return fields.mismatch('role', '"system", "user" or "assistant"');
  const name = fields.string('name');
  return { role, content: readContent(fields), ...(name === undefined ? {} : { name }) };
}

/** Text parts are joined by line ends, as vLLM does for templates that take a string. */
function readContent(fields: Fields): string {
  const content = fields.get('content');
  if (typeof content === 'string') return fields.wellFormed('content', content);
  if (!Array.isArray(content) || content.length === 0) {
    return fields.mismatch('content', 'a string or an array of text parts');
  }
  const texts = content.map((part, i) => {
    const path = `content[${i}]`;
    if (!isObject(part)) return fields.mismatch(path, 'a text part', part);
    if (part.type !== 'text') {
      return fields.fail(`${path}.type`, `must be "text" (others are not supported), found ${quote(part.type)}`);
    }
    if (typeof part.text !== 'string') return fields.mismatch(`${path}.text`, 'a string', part.text);
    return fields.wellFormed(`${path}.text`, part.text);
  });
  return texts.join('\n');
}

function readMaxTokens(fields: Fields): number | null {
  const expected = 'an integer of at least 1';
  const older = fields.integer('max_tokens', 1, Number.MAX_SAFE_INTEGER, expected);
  const newer = fields.integer('max_completion_tokens', 1, Number.MAX_SAFE_INTEGER, expected);
  if (older !== undefined && newer !== undefined && older !== newer) {
    return fields.fail('max_completion_tokens', `is ${newer} and ${fields.pathOf('max_tokens')} is ${older}; give one`);
  }
  return newer ?? older ?? null;
}

function readTopP(fields: Fields): number | null {
  const expected = 'a number above 0 and at most 1';
  const value = fields.number('top_p', 0, 1, expected);
  if (value === 0) return fields.mismatch('top_p', expected);
  return value ?? null;
}

/** 0 and -1 both mean all tokens. */
function readTopK(fields: Fields): number | null {
  const value = fields.integer('top_k', -1, 2 ** 31 - 1, 'an integer of at least 1, or 0 or -1 for all');
  return value === undefined ? null : Math.max(value, 0);
}

function readRepetitionPenalty(fields: Fields): number | null {
  const expected = 'a number above 0 and at most 100';
  const value = fields.number('repetition_penalty', 0, 100, expected);
  if (value === 0) return fields.mismatch('repetition_penalty', expected);
  return value ?? null;
}

/** Any integer of 64 bits, signed or unsigned; negative ones as their two's complement. */
function readSeed(fields: Fields, text: string): bigint | null {
  const value = fields.get('seed');
  if (value === undefined) return null;
  const expected = 'an integer of at most 64 bits';
  if (typeof value !== 'number') return fields.mismatch('seed', expected);
  if (Number.isSafeInteger(value)) return BigInt.asUintN(64, BigInt(value));
  const digits = seedSource(text, fields.pathOf('seed').split('.'));
  const exact = /^-?\d{1,20}$/.test(digits) ? BigInt(digits) : null;
  if (exact === null || exact < -(2n ** 63n) || exact >= 2n ** 64n) {
    return fields.fail('seed', `must be ${expected}, found ${shortened(digits)}`);
  }
  return BigInt.asUintN(64, exact);
}

interface SourceReviver {
  parse(
    text: string,
    reviver: (this: unknown, key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
}

/** A number's own digits: a double would have rounded them. */
function seedSource(text: string, path: readonly string[]): string {
  const value = (JSON as SourceReviver).parse(text, (key, parsed, { source }) =>
    key === 'seed' && typeof parsed === 'number' ? source : parsed,
  );
  return String(path.reduce<unknown>((object, name) => (isObject(object) ? object[name] : undefined), value));
}

function readLogitBias(fields: Fields, vocabSize: number): ReadonlyMap<number, number> {
  const value = fields.get('logit_bias');
  const biases = new Map<number, number>();
  if (value === undefined) return biases;
  if (!isObject(value)) return fields.mismatch('logit_bias', 'an object from token ids to numbers');
  for (const [key, bias] of Object.entries(value)) {
    // Written in one way only, so that no id stands there twice.
    const id = /^(0|[1-9]\d{0,9})$/.test(key) ? Number(key) : -1;
    if (id < 0 || id >= vocabSize) {
      return fields.fail('logit_bias', `must have token ids from 0 to ${vocabSize - 1} as keys, found ${quote(key)}`);
    }
    if (typeof bias !== 'number' || !(bias >= -100 && bias <= 100)) {
      return fields.mismatch(`logit_bias["${key}"]`, 'a number between -100 and 100', bias);
    }
    biases.set(id, bias);
  }
  return biases;
}

function readStop(fields: Fields): readonly string[] {
  const value = fields.get('stop');
  if (value === undefined) return [];
  const expected = `a string or an array of at most ${MAX_STOP_STRINGS} strings`;
  const strings: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (strings.length > MAX_STOP_STRINGS) return fields.mismatch('stop', expected);
  return strings.map((item, i) => {
    const name = Array.isArray(value) ? `stop[${i}]` : 'stop';
    if (typeof item !== 'string') {
      return Array.isArray(value) ? fields.mismatch(name, 'a string', item) : fields.mismatch(name, expected, item);
    }
    if (item === '') return fields.fail(name, 'is empty');
    return fields.wellFormed(name, item);
  });
}

function readStopTokenIds(fields: Fields, vocabSize: number): readonly number[] {
  const ids = fields.tokenIds('stop_token_ids', vocabSize) ?? [];
  if (ids.length > MAX_STOP_TOKEN_IDS) {
    return fields.fail('stop_token_ids', `must have at most ${MAX_STOP_TOKEN_IDS} ids, found ${ids.length}`);
  }
  return ids;
}

function readChatLogprobs(fields: Fields): number | null {
  const wanted = fields.get('logprobs');
  if (wanted !== undefined && typeof wanted !== 'boolean') {
    return fields.mismatch('logprobs', 'true or false in a chat request');
  }
  const top = fields.integer('top_logprobs', 0, MAX_TOP_LOGPROBS, `an integer from 0 to ${MAX_TOP_LOGPROBS}`);
  if (top !== undefined && top > 0 && wanted !== true) {
    return fields.fail('top_logprobs', `needs ${fields.pathOf('logprobs')}: true`);
  }
  return wanted === true ? (top ?? 0) : null;
}

function readCompletionLogprobs(fields: Fields): number | null {
  if (fields.has('top_logprobs')) {
    return fields.fail('top_logprobs', `belongs to chat requests; here give ${fields.pathOf('logprobs')} a number`);
  }
  const expected = `an integer from 0 to ${MAX_TOP_LOGPROBS} in a completions request`;
  return fields.integer('logprobs', 0, MAX_TOP_LOGPROBS, expected) ?? null;
}
