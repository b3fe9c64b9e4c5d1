/** Certificates as they stand in files: our own pair, and those to trust. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { InputError, toError } from '@glinthawk/core';

export interface TlsFlags {
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

export interface KeyPair {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Null when neither is given. @throws InputError when one is missing, or they are no pair */
export async function readKeyPair({ tlsCert, tlsKey }: TlsFlags): Promise<KeyPair | null> {
  if (tlsCert === undefined && tlsKey === undefined) return null;
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new InputError('TLS_FILES', 'TLS needs both --tls-cert and --tls-key');
  }
  let pair: KeyPair;
  try {
    pair = { cert: await readFile(tlsCert), key: await readFile(tlsKey) };
  } catch (cause) {
    throw new InputError('TLS_FILES', `the certificate can't be read: ${toError(cause).message}`, { cause });
  }
  try {
    createSecureContext(pair);
  } catch (cause) {
    throw new InputError(
      'TLS_FILES',
      `${tlsCert} and ${tlsKey} are not a certificate and its private key in PEM: ${toError(cause).message}`,
      { cause },
    );
  }
  return pair;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

/** @throws InputError */
export async function readCertificates(path: string): Promise<Buffer> {
  let pem: Buffer;
  try {
    pem = await readFile(path);
  } catch (cause) {
    throw new InputError('TLS_FILES', `the certificates can't be read: ${toError(cause).message}`, { cause });
  }
  // Node silently trusts nobody when it finds none in the file.
  const blocks = pem.toString('latin1').match(CERTIFICATE) ?? [];
  try {
    for (const block of blocks) new X509Certificate(block);
  } catch (cause) {
    throw new InputError('TLS_FILES', `${path} holds a damaged certificate: ${toError(cause).message}`, { cause });
  }
  if (blocks.length === 0) throw new InputError('TLS_FILES', `${path} holds no certificate in PEM`);
  return pem;
}
