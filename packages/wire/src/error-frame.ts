/**
 * ERROR: an error of either end as the other sees it: a stable code, a kind that says which error class it is, and the
 * message. With FLAG_REQUEST it answers one ATTEND; without, it is the last frame of its connection.
 */
import {
  AbortedError,
  CapacityError,
  DeviceError,
  GlinthawkError,
  InputError,
  NodeLostError,
  ProtocolError,
  toError,
  UnsupportedError,
} from '@glinthawk/core';
import { foreignWords } from './foreign-words.ts';
import { frame, type OutgoingFrame } from './frame.ts';
import { FLAG_REQUEST, FrameType } from './frame-type.ts';
import { decodeJson, encodeJson } from './json-payload.ts';
import { MAX_MESSAGE_CHARS, MAX_NAME_CHARS } from './limits.ts';

export const ERROR_KINDS = ['protocol', 'capacity', 'unsupported', 'input', 'device', 'lost', 'internal'] as const;
export type ErrorKind = (typeof ERROR_KINDS)[number];

export interface ErrorMessage {
  readonly code: string;
  readonly kind: ErrorKind;
  readonly message: string;
  readonly hint?: string;
}

/** Which ATTEND an error answers. */
export interface RequestScope {
  readonly id: number;
  readonly layer: number;
}

export function errorFrame(error: ErrorMessage, scope?: RequestScope): OutgoingFrame {
  const payload = [encodeJson('ERROR', error)];
  return scope === undefined
    ? frame(FrameType.ERROR, {}, payload)
    : frame(FrameType.ERROR, { flags: FLAG_REQUEST, id: scope.id, layer: scope.layer }, payload);
}

/** As codes are written here: they stand in results, and programs compare them. */
const CODE = /^[A-Z][A-Z0-9_]*$/;

/** Message and hint as one plain line each. @throws ProtocolError */
export function decodeError(payload: Uint8Array): ErrorMessage {
  const fields = decodeJson('ERROR', payload);
  const code = fields.string('code', MAX_NAME_CHARS);
  if (!CODE.test(code)) throw new ProtocolError('BAD_FIELD', 'ERROR: code must be of capital letters, digits and _');
  const message = {
    code,
    kind: fields.oneOf('kind', ERROR_KINDS),
    message: foreignWords(fields.string('message', MAX_MESSAGE_CHARS)),
  };
  return fields.has('hint') ? { ...message, hint: foreignWords(fields.string('hint', MAX_MESSAGE_CHARS)) } : message;
}

/** What is told of `thrown` to the other end. */
export function toErrorMessage(thrown: unknown): ErrorMessage {
  const error = toError(thrown);
  const message = clip(error.message);
  if (!(error instanceof GlinthawkError)) return { code: 'INTERNAL', kind: 'internal', message };
  const told = { code: error.code, kind: errorKind(error), message };
  return error.hint === undefined ? told : { ...told, hint: clip(error.hint) };
}

/** The error as its class here; `from` names the other end in the message. */
export function fromErrorMessage(told: ErrorMessage, from: string): GlinthawkError {
  const message = `${from}: ${told.message}`;
  const options = told.hint === undefined ? {} : { hint: told.hint };
  switch (told.kind) {
    case 'protocol':
      return new ProtocolError(told.code, message, options);
    case 'capacity':
      return new CapacityError(told.code, message, options);
    case 'unsupported':
      return new UnsupportedError(told.code, message, options);
    case 'input':
      return new InputError(told.code, message, options);
    case 'device':
      return new DeviceError(told.code, message, options);
    case 'lost':
      return new NodeLostError(from, message, options);
    case 'internal':
      return new GlinthawkError(told.code, message, options);
    default:
      return told.kind satisfies never;
  }
}

function errorKind(error: GlinthawkError): ErrorKind {
  if (error instanceof ProtocolError) return 'protocol';
  if (error instanceof CapacityError) return 'capacity';
  if (error instanceof UnsupportedError) return 'unsupported';
  if (error instanceof InputError) return 'input';
  if (error instanceof DeviceError) return 'device';
  if (error instanceof NodeLostError || error instanceof AbortedError) return 'lost';
  return 'internal';
}

function clip(text: string): string {
  return text.length <= MAX_MESSAGE_CHARS ? text : `${text.slice(0, MAX_MESSAGE_CHARS - 1)}…`;
}
