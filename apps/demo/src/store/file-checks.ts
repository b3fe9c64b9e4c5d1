/**
 * Whether bytes are what they are said to be, before any of them is stored: the first bytes of a body against the file's kind.
 * A server that answers "not found" with a page and status 200 is told from a model here. Not the model's own validation, which
 * packages/model does once the file is whole.
 */
import { ModelFormatError } from '@glinthawk/core';
import { quoteHostile } from './file-names.ts';

/** Enough for every check here. */
export const HEAD_BYTES = 512;

const PAGE = /^\s*<(!doctype|!--|html|head|body|\?xml|script|title)/i;
const MAX_GGUF_TENSORS = 1_000_000n;
const MAX_GGUF_KEYS = 65_536n;
const MAX_SAFETENSORS_HEADER = 100_000_000n;

/** @throws ModelFormatError when a response's type, or its first bytes, say that it is a page for people */
export function refusePage(name: string, contentType: string | null, head: Uint8Array): void {
  const text = new TextDecoder('latin1').decode(head.subarray(0, HEAD_BYTES));
  const typed = contentType !== null && /^\s*(text\/html|application\/xhtml\+xml)\b/i.test(contentType);
  if (!typed && !PAGE.test(text)) return;
  throw new ModelFormatError(
    'MODEL_IS_A_PAGE',
    `${name}: the server sent a web page instead: ${quoteHostile(text.trim().replaceAll(/\s+/g, ' '))}`,
    { hint: 'The address may be wrong, or need a login. Open it in a tab to see what the server says.' },
  );
}

/**
 * @param head the file's first bytes, HEAD_BYTES or all of it
 * @param fileBytes of the whole file
 * @throws ModelFormatError
 */
export function checkHead(name: string, head: Uint8Array, fileBytes: number): void {
  refusePage(name, null, head);
  const text = new TextDecoder('latin1').decode(head);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const damaged = (code: string, found: string) =>
    new ModelFormatError(code, `${name}: ${found}`, {
      hint: text.trimStart().startsWith('{')
        ? `The server says: ${quoteHostile(text.trim())}`
        : 'The address may be wrong, or the file damaged.',
    });
  if (name.toLowerCase().endsWith('.gguf')) {
    if (fileBytes < 24 || head.byteLength < 24 || view.getUint32(0, true) !== 0x46554747) {
      throw damaged('MODEL_GGUF', "it is not a GGUF file: it doesn't begin with the letters GGUF");
    }
    const version = view.getUint32(4, true);
    const tensors = view.getBigUint64(8, true);
    const keys = view.getBigUint64(16, true);
    if (version === 0 || version > 0xffff || tensors > MAX_GGUF_TENSORS || keys > MAX_GGUF_KEYS) {
      throw damaged(
        'MODEL_GGUF',
        `its header makes no sense: version ${version}, ${tensors} tensors, ${keys} metadata keys`,
      );
    }
  } else if (name.endsWith('.safetensors')) {
    if (fileBytes < 10 || head.byteLength < 10)
      throw damaged('MODEL_SAFETENSORS', `a safetensors file is longer than ${fileBytes} bytes`);
    const header = view.getBigUint64(0, true);
    if (header > MAX_SAFETENSORS_HEADER || header + 8n > BigInt(fileBytes) || head[8] !== 0x7b) {
      throw damaged(
        'MODEL_SAFETENSORS',
        `it is not a safetensors file: its header would be ${header} bytes of ${fileBytes}`,
      );
    }
  } else if (name.endsWith('.json') && !/^(\ufeff|ï»¿)?\s*[{[]/.test(text)) {
    throw damaged('MODEL_JSON', `it is not JSON: it begins with ${quoteHostile(text.slice(0, 40))}`);
  }
}

/** Whether a JSON file is only a server's excuse, such as {"error": "…"}. @throws ModelFormatError */
export function checkJson(name: string, text: string): void {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ModelFormatError('MODEL_JSON', `${name} is not valid JSON`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ModelFormatError('MODEL_JSON', `${name} must be a JSON object`);
  }
  const keys = Object.keys(value);
  if (
    keys.length > 0 &&
    keys.length <= 3 &&
    keys.every((key) => /^(error|message|detail|status|code|statusCode)$/.test(key))
  ) {
    throw new ModelFormatError('MODEL_IS_AN_ERROR', `${name}: the server sent an error instead: ${quoteHostile(text)}`);
  }
}
