/** What a server, or the way to it, did wrong. Distinct from a damaged model, which asking again doesn't mend. */
import { GlinthawkError } from '@glinthawk/core';

export class NetworkError extends GlinthawkError {
  /** Of HTTP, where the server answered at all. */
  readonly status: number | null;
  /** Whether asking again may help: cut connections, 408, 429, 5xx. */
  readonly transient: boolean;
  /** How long the server asks to wait, as far as it says. */
  readonly retryAfterMs: number | null;

  constructor(
    code: string,
    message: string,
    options: {
      readonly cause?: unknown;
      readonly hint?: string;
      readonly status?: number;
      readonly transient?: boolean;
      readonly retryAfterMs?: number | null;
    } = {},
  ) {
    super(code, message, options);
    this.status = options.status ?? null;
    this.transient = options.transient ?? false;
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}
