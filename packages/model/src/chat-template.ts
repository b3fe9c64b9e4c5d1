/**
 * Chat templates (Jinja, as transformers renders them): the interpreter is `@huggingface/jinja`; where a folder keeps its
 * template and which names it sees is settled here.
 */
import { type ChatMessage, InputError, ModelFormatError, toError } from '@glinthawk/core';
import { Template } from '@huggingface/jinja';
import { Fields, quote } from './config-fields.ts';
import type { ChatTemplate } from './model.ts';

/** Characters of a template; the longest published ones have some 20 thousand. */
const MAX_TEMPLATE_CHARACTERS = 1_000_000;

/** Special tokens by the names that transformers gives them in templates; those that a model lacks stay undefined there. */
export type TemplateTokens = Readonly<Partial<Record<TemplateTokenName, string | undefined>>>;

const TEMPLATE_TOKEN_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;
export type TemplateTokenName = (typeof TEMPLATE_TOKEN_NAMES)[number];

/** @throws ModelFormatError when the template isn't valid Jinja */
export function createChatTemplate(source: string, where: string, tokens: TemplateTokens): ChatTemplate {
  if (source.length > MAX_TEMPLATE_CHARACTERS) {
    throw new ModelFormatError(
      'MODEL_CHAT_TEMPLATE',
      `${where}: the chat template has ${source.length} characters; at most ${MAX_TEMPLATE_CHARACTERS} are read`,
    );
  }
  let template: Template;
  try {
    template = new Template(source);
  } catch (thrown) {
    const cause = toError(thrown);
    throw new ModelFormatError('MODEL_CHAT_TEMPLATE', `${where}: the chat template can't be parsed: ${cause.message}`, {
      cause,
    });
  }
  // Besides these, the interpreter itself provides raise_exception and strftime_now.
  const names = {
    ...Object.fromEntries(Object.entries(tokens).filter(([, token]) => token !== undefined)),
    // transformers always passes both, so templates may ask whether they are none.
    tools: null,
    documents: null,
    add_generation_prompt: true,
  };
  return {
    render: (messages: readonly ChatMessage[]) => {
      try {
        return template.render({ ...names, messages: messages.map((message) => ({ ...message })) });
      } catch (thrown) {
        const cause = toError(thrown);
        throw new InputError('CHAT_TEMPLATE', `the chat template rejects the messages: ${cause.message}`, { cause });
      }
    },
  };
}

/**
 * The template of a tokenizer_config.json: a string, or a list of named ones, of which `default` counts.
 * @throws ModelFormatError when it is neither
 */
export function configuredTemplate(config: Fields): string | undefined {
  const value = config.raw('chat_template');
  if (value === undefined || typeof value === 'string') return value;
  if (!Array.isArray(value)) throw config.wrong('chat_template', 'a string or a list of named templates');
  for (const [i, entry] of value.entries()) {
    const named = Fields.of(`${config.where}: chat_template[${i}]`, entry);
    if (named.text('name') === 'default') return named.text('template');
  }
  return undefined;
}

/** The special tokens that tokenizer_config.json names. @throws ModelFormatError */
export function configuredTokens(config: Fields): TemplateTokens {
  return Object.fromEntries(TEMPLATE_TOKEN_NAMES.map((name) => [name, configuredToken(config, name)]));
}

/** A token that tokenizer_config.json names: as a string, or as an object with its content. */
export function configuredToken(config: Fields, key: string): string | undefined {
  const value = config.raw(key);
  if (value === undefined || typeof value === 'string') return value;
  if (typeof value === 'object' && !Array.isArray(value)) return config.section(key)?.text('content');
  throw new ModelFormatError('MODEL_TOKENIZER', `${config.where}: ${key} must be a token, found ${quote(value)}`);
}
