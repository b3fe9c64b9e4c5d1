/**
 * Every error that Glinthawk raises on purpose. Each carries a stable `code` (for programs), a message that says what was
 * expected and what was found, and where it helps a `hint` that says what to do. Anything else that is thrown is a bug.
 */
export class GlinthawkError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, options: { readonly cause?: unknown; readonly hint?: string } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
  }
}

/** Bad usage or bad input, found before work began: the CLI exits with 2. */
export class InputError extends GlinthawkError {}

/** A model that is damaged: truncated, inconsistent, or not what its configuration says. The CLI exits with 2. */
export class ModelFormatError extends InputError {}

/** A well-formed thing that this version does not support, named in the message. The CLI exits with 2. */
export class UnsupportedError extends InputError {}

/** No room: KV blocks, GPU memory, WASM memory. Quotes what was needed and what there is. */
export class CapacityError extends GlinthawkError {}

/** A frame that breaks the protocol, or a handshake that was refused. The connection is dropped. */
export class ProtocolError extends GlinthawkError {}

/** An attention node is gone (connection closed, timed out, worker died). Its KV is lost; the sequences are not. */
export class NodeLostError extends GlinthawkError {
  readonly node: string;

  constructor(node: string, message: string, options: { readonly cause?: unknown; readonly hint?: string } = {}) {
    super('NODE_LOST', message, options);
    this.node = node;
  }
}

/** A GPU device that could not be had, lacks something, or was lost. */
export class DeviceError extends GlinthawkError {}

/** The caller asked to stop (AbortSignal, Ctrl-C). The CLI exits with 130. */
export class AbortedError extends GlinthawkError {
  constructor(message = 'aborted') {
    super('ABORTED', message);
  }
}

/** Whatever was thrown, as an Error. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
