/** What is wrong with one line of the input: where, in which field, and what was expected. Other lines are not concerned. */
import { InputError } from '@glinthawk/core';

export type LineErrorCode =
  | 'invalid_json'
  | 'invalid_utf8'
  | 'line_too_long'
  | 'invalid_request'
  | 'unsupported_field'
  | 'invalid_url'
  | 'missing_custom_id'
  | 'duplicate_custom_id'
  | 'context_length_exceeded';

export class LineError extends InputError {
  /** 1 for the first line of the file, blank lines counted. */
  readonly line: number;
  /** The field, as `body.temperature`, or null when the whole line is meant. */
  readonly param: string | null;
  /** The message without the line number. */
  readonly detail: string;
  /** The line's own custom_id where one could be read. */
  readonly customId: string | null;

  constructor(
    line: number,
    code: LineErrorCode,
    detail: string,
    options: { readonly param?: string; readonly customId?: string | null; readonly cause?: unknown } = {},
  ) {
    super(code, `line ${line}: ${detail}`, options.cause === undefined ? {} : { cause: options.cause });
    this.line = line;
    this.detail = detail;
    this.param = options.param ?? null;
    this.customId = options.customId ?? null;
  }
}
