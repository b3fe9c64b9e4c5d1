/** The shared secret between an engine and its attention nodes: a flag, a file, or the environment. */
import { readFile } from 'node:fs/promises';
import { InputError, toError } from '@glinthawk/core';

export interface TokenFlags {
  readonly token?: string;
  readonly tokenFile?: string;
}

/** @throws InputError */
export async function readToken({ token, tokenFile }: TokenFlags): Promise<string | undefined> {
  if (token !== undefined && tokenFile !== undefined) {
    throw new InputError('TWO_TOKENS', 'give --token or --token-file, not both');
  }
  if (token !== undefined) return token;
  if (tokenFile === undefined) return process.env.GLINTHAWK_TOKEN || undefined;
  try {
    const text = (await readFile(tokenFile, 'utf8')).trim();
    if (text === '') throw new InputError('EMPTY_TOKEN', `the token file ${tokenFile} is empty`);
    return text;
  } catch (cause) {
    if (cause instanceof InputError) throw cause;
    throw new InputError('TOKEN_FILE', `the token file can't be read: ${toError(cause).message}`, { cause });
  }
}
