/**
 * Result and error lines in OpenAI Batch's shape, with `chat.completion` and `text_completion` bodies. Ids are made from the
 * input's hash and the line number, so that a job run again writes the same ones.
 */
import { type GlinthawkError, InputError, type Tokenizer } from '@glinthawk/core';
import type { FinishReason, Logprob, TokenLogprobs } from '@glinthawk/engine';
import { LineError } from './line-error.ts';
import type { PreparedRequest } from './prepare-request.ts';
import { type TokenText, tokenTexts } from './token-text.ts';

export interface FinishedChoice {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly finishReason: FinishReason;
  readonly logprobs: readonly TokenLogprobs[] | null;
}

export interface LineIdentity {
  /** SHA-256 of the input, hex. */
  readonly inputSha256: string;
  readonly line: number;
}

function uniqueId({ inputSha256, line }: LineIdentity): string {
  return inputSha256.slice(0, 16) + line.toString(16).padStart(8, '0');
}

/** @param created Unix seconds */
export function resultLine(
  identity: LineIdentity,
  prepared: PreparedRequest,
  choices: readonly FinishedChoice[],
  context: { readonly modelName: string; readonly tokenizer: Tokenizer | null; readonly created: number },
): string {
  const { request, promptIds } = prepared;
  const id = uniqueId(identity);
  const isChat = request.kind === 'chat';
  const texts = tokenTexts(context.tokenizer, request.tokensAsIds);
  const completionTokens = choices.reduce((sum, choice) => sum + choice.tokenIds.length, 0);
  const body = {
    id: `${isChat ? 'chatcmpl' : 'cmpl'}-${id}`,
    object: isChat ? 'chat.completion' : 'text_completion',
    created: context.created,
    model: request.model ?? context.modelName,
    choices: choices.map((choice, index) =>
      isChat
        ? {
            index,
            message: { role: 'assistant', content: choice.text, refusal: null },
            logprobs: choice.logprobs && chatLogprobs(choice.logprobs, texts),
            finish_reason: choice.finishReason,
            ...(request.returnTokenIds ? { token_ids: choice.tokenIds } : {}),
          }
        : {
            index,
            text: choice.text,
            logprobs: choice.logprobs && completionLogprobs(choice.logprobs, texts),
            finish_reason: choice.finishReason,
            ...(request.returnTokenIds ? { prompt_token_ids: promptIds, token_ids: choice.tokenIds } : {}),
          },
    ),
    usage: {
      prompt_tokens: promptIds.length,
      completion_tokens: completionTokens,
      total_tokens: promptIds.length + completionTokens,
    },
    ...(isChat && request.returnTokenIds ? { prompt_token_ids: promptIds } : {}),
  };
  return JSON.stringify({
    id: `batch_req_${id}`,
    custom_id: request.customId,
    response: { status_code: 200, request_id: `req_${id}`, body },
    error: null,
  });
}

/** A request that was refused for what it asks (status 400) or failed while running (status 500). */
export function errorLine(identity: LineIdentity, customId: string | null, error: GlinthawkError): string {
  const id = uniqueId(identity);
  const isRefused = error instanceof InputError;
  const param = error instanceof LineError ? error.param : null;
  const type = isRefused ? 'invalid_request_error' : 'server_error';
  return JSON.stringify({
    id: `batch_req_${id}`,
    custom_id: customId,
    response: {
      status_code: isRefused ? 400 : 500,
      request_id: `req_${id}`,
      body: { error: { message: error.message, type, param, code: error.code } },
    },
    error: { code: error.code, message: error.message, param, line: identity.line },
  });
}

function chatLogprobs(tokens: readonly TokenLogprobs[], texts: TokenText) {
  const entry = (tokenId: number, logprob: number) => ({
    token: texts.chat(tokenId),
    logprob: finite(logprob),
    bytes: texts.bytes(tokenId),
  });
  return {
    content: tokens.map(({ tokenId, logprob, top }) => ({
      ...entry(tokenId, logprob),
      top_logprobs: top.map((other) => entry(other.tokenId, other.logprob)),
    })),
    refusal: null,
  };
}

function completionLogprobs(tokens: readonly TokenLogprobs[], texts: TokenText) {
  const offsets: number[] = [];
  let offset = 0;
  for (const { tokenId } of tokens) {
    offsets.push(offset);
    offset += texts.characters(tokenId);
  }
  return {
    tokens: tokens.map(({ tokenId }) => texts.key(tokenId)),
    token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
    top_logprobs: tokens.some(({ top }) => top.length > 0)
      ? tokens.map((token) =>
          Object.fromEntries(withChosen(token).map(({ tokenId, logprob }) => [texts.key(tokenId), finite(logprob)])),
        )
      : null,
    text_offset: offsets,
  };
}

/** In completions, not in chat, the chosen token stands among the most probable ones even where it is none of them. */
function withChosen(token: TokenLogprobs): readonly Logprob[] {
  return token.top.some(({ tokenId }) => tokenId === token.tokenId) ? token.top : [...token.top, token];
}

/** JSON has no infinity, should a model ever give a token no probability at all: -9999, as at vLLM. */
function finite(logprob: number): number {
  return Math.max(logprob, -9999);
}
