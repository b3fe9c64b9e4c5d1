/**
 * AUTH: both ends show that they know a shared token, and neither shows the token. Each proof is an HMAC-SHA-256 over its
 * direction, the whole HELLO (with the engine's nonce) and the node's nonce, so it fits one connection and one direction only.
 * The engine proves first: a stranger learns nothing from a node that he could test guesses against. This keeps strangers
 * out; it does not hide or protect what is sent afterwards, which is TLS's work.
 */
import { hmac } from '@noble/hashes/hmac.js';
import { sha256 } from '@noble/hashes/sha2.js';
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
 * HMAC-SHA-256(token, "glinthawk-auth-1 " + role, 0x00, SHA-256(HELLO payload), node nonce). Not by WebCrypto, which a page has
 * only when it came by https or from localhost, and a tab is lent over a local network by plain http, too.
 */
export function authProof(
  token: string,
  role: AuthRole,
  helloPayload: Uint8Array,
  nodeNonce: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder();
  const mac = hmac.create(sha256, text.encode(token));
  mac
    .update(text.encode(`glinthawk-auth-1 ${role}\0`))
    .update(sha256(helloPayload))
    .update(nodeNonce);
  return new Uint8Array(mac.digest());
}

/** Compares without telling by its time where the difference is. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= (a[i] as number) ^ (b[i] as number);
  return difference === 0;
}
