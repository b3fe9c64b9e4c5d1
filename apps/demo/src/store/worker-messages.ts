/** What the page and its download worker say to each other: one command a worker's life, `stop` at any time, and one end. */
import {
  AbortedError,
  CapacityError,
  GlinthawkError,
  InputError,
  ModelFormatError,
  toError,
  UnsupportedError,
} from '@glinthawk/core';
import type { DownloadTiming } from './download-file.ts';
import { NetworkError } from './network-error.ts';
import type { DownloadProgress, ModelSource, RemoteModel, StoredModel } from './store-api.ts';

export interface Hub {
  readonly url: string;
  readonly token: string | null;
}

export type StoreCommand =
  | { readonly type: 'inspect'; readonly source: ModelSource; readonly hub: Hub }
  | {
      readonly type: 'download';
      readonly id: string;
      readonly remote: RemoteModel;
      readonly hub: Hub;
      readonly timing: DownloadTiming;
    }
  | { readonly type: 'stop' };

export type StoreReply =
  | { readonly type: 'progress'; readonly progress: DownloadProgress }
  | { readonly type: 'inspected'; readonly remote: RemoteModel }
  | { readonly type: 'downloaded'; readonly stored: StoredModel }
  | { readonly type: 'failed'; readonly error: PlainError };

const KINDS = {
  network: NetworkError,
  format: ModelFormatError,
  unsupported: UnsupportedError,
  input: InputError,
  capacity: CapacityError,
  other: GlinthawkError,
} as const;

/** An error as it travels; classes don't. */
export interface PlainError {
  readonly kind: keyof typeof KINDS | 'aborted';
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export function plainError(thrown: unknown): PlainError {
  if (thrown instanceof AbortedError)
    return { kind: 'aborted', code: thrown.code, message: thrown.message, hint: null };
  if (!(thrown instanceof GlinthawkError)) {
    return { kind: 'other', code: 'STORE_INTERNAL', message: toError(thrown).message, hint: null };
  }
  const kinds = Object.keys(KINDS) as (keyof typeof KINDS)[];
  const kind = kinds.find((name) => thrown.constructor === KINDS[name]) ?? 'other';
  return { kind, code: thrown.code, message: thrown.message, hint: thrown.hint ?? null };
}

export function errorOf({ kind, code, message, hint }: PlainError): GlinthawkError {
  if (kind === 'aborted') return new AbortedError(message);
  return new KINDS[kind](code, message, hint === null ? {} : { hint });
}
