/**
 * The part of an address after `#` that says "lend this tab": `#lend&token=…` to the job that serves this page, or
 * `#lend=ws://host:port&token=…` to another. It comes with a link from anywhere, so everything in it is checked; nothing
 * is lent before the visitor says so.
 */
import { parseAttentionUrl } from '@glinthawk/attention';
import { InputError } from '@glinthawk/core';
import { isLoopback } from '@glinthawk/wire';

export interface LendLink {
  /** `ws://host:port` or `wss://host:port` of the job. */
  readonly url: string;
  /** null when the link has none; jobs ask for one. */
  readonly token: string | null;
}

/** Longer than any address and token; a browser would take megabytes. */
const MAX_FRAGMENT_CHARS = 4096;
const MAX_TOKEN_CHARS = 1024;
const KEYS: ReadonlySet<string> = new Set(['lend', 'token']);

/**
 * @param hash location.hash, with or without `#`
 * @param pageUrl location.href, for the address that is left out and for what a page of its kind may reach
 * @returns null when it isn't about lending
 * @throws InputError when it is, and wrong
 */
export function parseLendLink(hash: string, pageUrl: string): LendLink | null {
  const fragment = hash.startsWith('#') ? hash.slice(1) : hash;
  if (!/^lend(?:[=&]|$)/.test(fragment)) return null;
  if (fragment.length > MAX_FRAGMENT_CHARS) {
    throw bad(`the link has ${fragment.length} characters after #, at most ${MAX_FRAGMENT_CHARS} were expected`);
  }
  // A plus sign is itself, as in base64; only forms take it for a space.
  const fields = new URLSearchParams(fragment.replaceAll('+', '%2B'));
  for (const key of fields.keys()) {
    if (!KEYS.has(key)) throw bad(`${JSON.stringify(key.slice(0, 40))} is no part of a lend link`);
    if (fields.getAll(key).length > 1) throw bad(`${key} stands there twice`);
  }
  const address = fields.get('lend') ?? '';
  const page = new URL(pageUrl);
  const url = address === '' ? ownAddress(page) : jobAddress(address, page);
  return { url, token: checkedToken(fields.get('token')) };
}

/** The address of a job as a visitor writes it, checked. @throws InputError */
export function jobAddress(text: string, page: URL): string {
  const { scheme, host } = parseAttentionUrl(text.trim());
  if (scheme !== 'ws' && scheme !== 'wss') {
    throw bad(`a tab can't reach ${scheme}://; the address of a job begins with ws:// or wss://`);
  }
  if (scheme === 'ws' && page.protocol === 'https:' && !isLoopback(host)) {
    throw new InputError('MIXED_CONTENT', 'a page that came by https reaches jobs by wss:// only', {
      hint: 'Let the job listen by wss-listen, or open the page that the job itself serves by http.',
    });
  }
  const parsed = new URL(text.trim());
  if (parsed.search !== '' || parsed.hash !== '') throw bad('the address of a job has no ? and no #');
  return parsed.href.replace(/\/$/, '');
}

function ownAddress({ protocol, host }: URL): string {
  if (protocol !== 'http:' && protocol !== 'https:') {
    throw bad('the link names no job, and this page came from none');
  }
  return `${protocol === 'https:' ? 'wss' : 'ws'}://${host}`;
}

function checkedToken(token: string | null): string | null {
  if (token === null || token === '') return null;
  if (token.length > MAX_TOKEN_CHARS) throw bad(`the token has ${token.length} characters`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(token)) throw bad('the token has control characters');
  return token;
}

function bad(message: string): InputError {
  return new InputError('BAD_LEND_LINK', message, {
    hint: 'A lend link ends in #lend&token=… or #lend=ws://host:port&token=…; copy it whole from where the job was started.',
  });
}
