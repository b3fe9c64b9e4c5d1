/** Whatever was thrown, as the page shows it: a stable code, what happened, and what the visitor can do about it. */
import { AbortedError, CapacityError, GlinthawkError, InputError, toError } from '@glinthawk/core';
import type { ErrorReport } from './protocol.ts';

/** What to do in a page, by code; the errors' own hints speak of flags of the command line. */
const PAGE_HINTS: ReadonlyMap<string, string> = new Map([
  ['KV_CAPACITY', 'Give the KV cache more memory, choose fewer workers, or a smaller KV type.'],
  ['WASM_MEMORY', 'Choose fewer attention workers, less KV memory, or a smaller model.'],
  ['NO_ADAPTER', 'Choose WASM for the dense tier; it runs in every current browser.'],
  ['NO_DEVICE', 'Choose WASM for the dense tier; it runs in every current browser.'],
  ['WEBGPU_MISSING', 'Choose WASM for the dense tier, or open this page by https (or from localhost).'],
  ['SOFTWARE_ADAPTER', 'Choose WASM, which is faster than a software GPU, or allow software GPUs.'],
  ['DEVICE_LOST', 'Open the model again, or choose WASM for the dense tier.'],
  ['GPU_ERROR', 'Open the model again, or choose WASM for the dense tier.'],
  ['DENSE_WORKER_LOST', 'Open the model again; if it happens again, close other tabs or choose a smaller model.'],
  ['TOKEN_REQUIRED', 'Give the token that the node was started with.'],
  ['WRONG_TOKEN', 'Check the token: it must be the one that the node was started with.'],
  [
    'NODE_LOST',
    'Is the node running, and does it let this page in (its --origin flag)? A page from https reaches wss:// only.',
  ],
  ['BUSY', 'Wait until the node is done with its present engine, or use another one.'],
  ['NO_CHAT_TEMPLATE', 'Write a plain prompt instead of a chat.'],
]);

const OUT_OF_MEMORY_HINT =
  'Choose fewer attention workers, less KV memory, or a smaller model; closing other tabs helps too.';

/** Engines say "Array buffer allocation failed", "could not allocate memory", "Out of memory" … */
function isOutOfMemory(error: Error): boolean {
  return error instanceof RangeError && /alloc|memory|array buffer|array length/i.test(error.message);
}

/** A visitor's browser running out of memory, as the CapacityError that it is; anything else as it was. */
export function asGlinthawkError(thrown: unknown): GlinthawkError {
  const error = toError(thrown);
  if (error instanceof GlinthawkError) return error;
  if (isOutOfMemory(error)) {
    return new CapacityError('OUT_OF_MEMORY', `the browser has no more memory for this: ${error.message}`, {
      cause: error,
      hint: OUT_OF_MEMORY_HINT,
    });
  }
  if (error.name === 'AbortError') return new AbortedError(error.message);
  if (error.name === 'NotReadableError' || error.name === 'NotFoundError') {
    return new InputError('FILE_UNREADABLE', `a file can't be read any more: ${error.message}`, {
      cause: error,
      hint: 'It was moved or changed since it was picked: pick it again.',
    });
  }
  return new GlinthawkError('INTERNAL', error.message || error.name, { cause: error });
}

export function reportError(thrown: unknown): ErrorReport {
  const error = asGlinthawkError(thrown);
  const hint = PAGE_HINTS.get(error.code) ?? error.hint ?? (error instanceof CapacityError ? OUT_OF_MEMORY_HINT : null);
  return { code: error.code, message: error.message, hint };
}
