/** Whether a node may listen at an address: beyond this machine only with a token that can't be guessed. */
import { InputError } from '@glinthawk/core';

export const MIN_TOKEN_CHARS = 16;

export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[|\]$/g, '');
  if (name === 'localhost' || name === '::1') return true;
  return /^(::ffff:)?127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name);
}

/** @throws InputError when `host` is reachable from other machines and the token is missing or short */
export function checkListenAllowed(options: { readonly host: string; readonly token?: string | undefined }): void {
  if (options.token === '') throw new InputError('EMPTY_TOKEN', 'the token is empty');
  if (isLoopback(options.host)) return;
  const found = options.token === undefined ? 'without a token' : `with a token of ${options.token.length} characters`;
  if (options.token !== undefined && options.token.length >= MIN_TOKEN_CHARS) return;
  throw new InputError(
    'LISTEN_WITHOUT_TOKEN',
    `listening at ${options.host || 'every address'} ${found} would let anybody on the network in; expected at least ${MIN_TOKEN_CHARS} characters`,
    { hint: 'give a token to both ends, e.g. one made by: openssl rand -hex 16; or listen at 127.0.0.1' },
  );
}
