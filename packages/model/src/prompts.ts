/** From what a request says to the token ids that the model sees. */
import { type ChatMessage, InputError, UnsupportedError } from '@glinthawk/core';
import type { Model } from './model.ts';

/** Token ids of a plain prompt, with what the model's tokenizer adds (BOS). @throws UnsupportedError without a tokenizer */
export function encodePrompt(model: Model, text: string): number[] {
  return tokenizerOf(model).encode(text, { addSpecial: true });
}

/**
 * Token ids of a conversation. The template writes every special token, BOS too, so none is added: as transformers'
 * `apply_chat_template` and the servers built on it do.
 * @throws UnsupportedError without a tokenizer or a chat template; InputError when the template rejects the messages
 */
export function encodeChat(model: Model, messages: readonly ChatMessage[]): number[] {
  const tokenizer = tokenizerOf(model);
  if (model.chatTemplate === null) {
    throw new UnsupportedError('NO_CHAT_TEMPLATE', `${model.name} has no chat template, so it can't take messages`, {
      hint: 'Use /v1/completions with a prompt.',
    });
  }
  if (messages.length === 0) throw new InputError('NO_MESSAGES', 'a conversation needs at least one message');
  return tokenizer.encode(model.chatTemplate.render(messages), { addSpecial: false });
}

function tokenizerOf(model: Model): NonNullable<Model['tokenizer']> {
  if (model.tokenizer === null) {
    throw new UnsupportedError('NO_TOKENIZER', `${model.name} has no tokenizer, so it can't take text`, {
      hint: 'Give prompts as arrays of token ids.',
    });
  }
  return model.tokenizer;
}
