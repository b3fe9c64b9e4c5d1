/** The text side of a Hugging Face folder: tokenizer.json, tokenizer_config.json, chat_template.jinja. */
import { ModelFormatError, type Tokenizer } from '@glinthawk/core';
import { configuredTemplate, configuredTokens, createChatTemplate, type TemplateTokens } from './chat-template.ts';
import { Fields } from './config-fields.ts';
import { decodeUtf8, type ModelFiles, parseJson, readWhole } from './file-source.ts';
import type { ChatTemplate } from './model.ts';
import { MAX_TOKENIZER_BYTES } from './model-limits.ts';
import type { SpecialIds } from './post-processor.ts';
import { PretrainedTokenizer } from './pretrained-tokenizer.ts';

const TEXT_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'] as const;

export interface ModelText {
  readonly tokenizer: Tokenizer | null;
  readonly chatTemplate: ChatTemplate | null;
}

/** Bytes of those of the folder's text files that it has, in a fixed order. */
export async function readTextFiles(files: ModelFiles): Promise<ReadonlyMap<string, Uint8Array<ArrayBuffer>>> {
  const contents = new Map<string, Uint8Array<ArrayBuffer>>();
  for (const entry of TEXT_FILES) {
    if (files.entries.includes(entry)) contents.set(entry, await readWhole(files, entry, MAX_TOKENIZER_BYTES));
  }
  return contents;
}

/**
 * @param contents bytes of those of TEXT_FILES that the folder has
 * @throws ModelFormatError, UnsupportedError
 */
export function readHuggingFaceText(contents: ReadonlyMap<string, Uint8Array>): ModelText {
  const text = (entry: (typeof TEXT_FILES)[number]) => {
    const bytes = contents.get(entry);
    return bytes === undefined ? undefined : decodeUtf8(bytes, entry);
  };
  const configText = text('tokenizer_config.json');
  const config = Fields.of(
    'tokenizer_config.json',
    configText === undefined ? {} : parseJson(configText, 'tokenizer_config.json'),
  );
  const tokens = configuredTokens(config);
  const file = text('chat_template.jinja');
  const source = file ?? configuredTemplate(config);
  const where = file === undefined ? 'tokenizer_config.json' : 'chat_template.jinja';
  const tokenizerText = text('tokenizer.json');
  return {
    tokenizer:
      tokenizerText === undefined ? null : createTokenizer(parseJson(tokenizerText, 'tokenizer.json'), config, tokens),
    chatTemplate: source === undefined ? null : createChatTemplate(source, where, tokens),
  };
}

function createTokenizer(json: unknown, config: Fields, tokens: TemplateTokens): Tokenizer {
  return new PretrainedTokenizer(json, {
    where: 'tokenizer.json',
    special: (tokenId) => flaggedSpecial(config, tokens, tokenId),
  });
}

/** transformers' Llama tokenizers build their post-processor from two flags, whatever tokenizer.json says. */
function flaggedSpecial(
  config: Fields,
  tokens: TemplateTokens,
  tokenId: (content: string) => number | undefined,
): SpecialIds | undefined {
  if (!/^(Code)?Llama/.test(config.text('tokenizer_class') ?? '') || !config.has('add_bos_token')) return undefined;
  const ids = (flag: string, token: string | undefined) => {
    if (!config.flag(flag, false)) return [];
    const id = token === undefined ? undefined : tokenId(token);
    if (id !== undefined) return [id];
    const missing = token === undefined ? 'no such token is named' : `tokenizer.json has no token ${token}`;
    throw new ModelFormatError('MODEL_TOKENIZER', `tokenizer_config.json: ${flag} is true, but ${missing}`);
  };
  return { before: ids('add_bos_token', tokens.bos_token), after: ids('add_eos_token', tokens.eos_token) };
}
