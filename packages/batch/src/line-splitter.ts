/**
 * Bytes in any cuts → lines, counted as an editor counts them. Ends are LF or CRLF; blank lines are skipped but counted; a BOM
 * at the start is dropped; a line over the cap is passed over without being held. Memory: one line.
 */
import { LineError } from './line-error.ts';

/** Longer than any prompt for a context of a million tokens. */
export const MAX_LINE_BYTES = 16 * 2 ** 20;

/** A line that isn't blank: its text, or why it has none. */
export interface InputLine {
  /** 1 for the first. */
  readonly line: number;
  readonly text: string | LineError;
}

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const BLANK = /^[ \t\r\v\f]*$/;

export async function* splitLines(
  chunks: AsyncIterable<Uint8Array>,
  maxLineBytes = MAX_LINE_BYTES,
): AsyncGenerator<InputLine> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let parts: Uint8Array[] = [];
  let held = 0;
  let isTooLong = false;
  let line = 1;

  const take = (part: Uint8Array) => {
    if (isTooLong) return;
    held += part.length;
    if (held > maxLineBytes) {
      isTooLong = true;
      parts = [];
    } else if (part.length > 0) {
      parts.push(part);
    }
  };
  const finish = (): InputLine | null => {
    const bytes = joined(parts);
    const wasTooLong = isTooLong;
    parts = [];
    held = 0;
    isTooLong = false;
    const number = line++;
    if (wasTooLong) {
      return { line: number, text: new LineError(number, 'line_too_long', `is longer than ${maxLineBytes} bytes`) };
    }
    const text = decode(decoder, bytes, number);
    return typeof text === 'string' && BLANK.test(text) ? null : { line: number, text };
  };

  for await (const chunk of chunks) {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(LINE_FEED, start);
      if (end < 0) break;
      take(chunk.subarray(start, end));
      const found = finish();
      if (found !== null) yield found;
      start = end + 1;
    }
    // A copy: the source may use its buffer again.
    take(chunk.slice(start));
  }
  if (held > 0) {
    const found = finish();
    if (found !== null) yield found;
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const [first] = parts;
  if (first === undefined) return new Uint8Array(0);
  if (parts.length === 1) return first;
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function decode(decoder: TextDecoder, bytes: Uint8Array, line: number): string | LineError {
  const end = bytes.at(-1) === CARRIAGE_RETURN ? bytes.length - 1 : bytes.length;
  const hasBom = line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  try {
    return decoder.decode(bytes.subarray(hasBom ? 3 : 0, end));
  } catch (cause) {
    const isUtf16 =
      line === 1 && ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff));
    const detail = isUtf16 ? 'is UTF-16; save the file as UTF-8' : 'is not valid UTF-8';
    return new LineError(line, 'invalid_utf8', detail, { cause });
  }
}
