/**
 * AUTH: both ends show that they know a shared token, and neither shows the token. Each proof is an HMAC-SHA-256 over its
 * direction, the whole HELLO (with the engine's nonce) and the node's nonce, so it fits one connection and one direction only.
 * The engine proves first: a stranger learns nothing from a node that he could test guesses against. This keeps strangers
 * out; it does not hide or protect what is sent afterwards, which is TLS's work.
 */
import { UnsupportedError } from '@glinthawk/core';
import { frame, type OutgoingFrame } from './frame.ts';
import { FrameType } from './frame-type.ts';
import { NONCE_BYTES, PROOF_BYTES } from './hello.ts';
import { bytesToHex, decodeJson, encodeJson } from './json-payload.ts';

export type AuthRole = 'engine' | 'node';

/** The node's challenge, or the engine's answer. */
export type Auth =
  | { readonly kind: 'challenge'; readonly nonce: Uint8Array }
  | { readonly kind: 'proof'; readonly proof: Uint8Array };

export function authFrame(auth: Auth): OutgoingFrame {
  const json = auth.kind === 'challenge' ? { nonce: bytesToHex(auth.nonce) } : { proof: bytesToHex(auth.proof) };
  return frame(FrameType.AUTH, {}, [encodeJson('AUTH', json)]);
}

/** @throws ProtocolError */
export function decodeAuth(payload: Uint8Array): Auth {
  const fields = decodeJson('AUTH', payload);
  if (fields.has('nonce')) return { kind: 'challenge', nonce: fields.hexBytes('nonce', NONCE_BYTES) };
  return { kind: 'proof', proof: fields.hexBytes('proof', PROOF_BYTES) };
}

export function randomNonce(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
}

/**
 * HMAC-SHA-256(token, "glinthawk-auth-1 " + role, 0x00, SHA-256(HELLO payload), node nonce).
 * @throws UnsupportedError where WebCrypto is missing (a page that isn't served over https or from localhost)
 */
export async function authProof(
  token: string,
  role: AuthRole,
  helloPayload: Uint8Array,
  nodeNonce: Uint8Array,
): Promise<Uint8Array> {
  const subtle = globalThis.crypto?.subtle;
  if (subtle === undefined) {
    throw new UnsupportedError('NO_WEBCRYPTO', 'a token needs WebCrypto, which this page has not', {
      hint: 'serve the page over https, or from localhost',
    });
  }
  const text = new TextEncoder();
  const label = text.encode(`glinthawk-auth-1 ${role}\0`);
  const helloHash = new Uint8Array(await subtle.digest('SHA-256', new Uint8Array(helloPayload)));
  const message = new Uint8Array(label.length + helloHash.length + nodeNonce.length);
  message.set(label);
  message.set(helloHash, label.length);
  message.set(nodeNonce, label.length + helloHash.length);
  const key = await subtle.importKey('raw', text.encode(token), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return new Uint8Array(await subtle.sign('HMAC', key, message));
}

/** Compares without telling by its time where the difference is. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= (a[i] as number) ^ (b[i] as number);
  return difference === 0;
}
