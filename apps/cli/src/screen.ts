/**
 * Standard error as this command uses it: lines for people, and on a terminal one live block below them that is drawn over.
 * Standard output is for results: a JSON summary, an answer that was asked for.
 */
import type { Logger } from '@glinthawk/core';

/** Part of what is logged are the words of other machines: none of them may move the cursor, or look like a line of its own. */
function printable(text: string): string {
  return text.replace(/\r?\n/g, '␤').replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '?');
}

/** As much as the screen needs of a stream: tests give it another one. */
export interface TextStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): boolean;
}

export class Screen {
  readonly isLive: boolean;
  readonly #stream: TextStream;
  readonly #quiet: boolean;
  #blockLines = 0;

  constructor(options: { readonly quiet: boolean; readonly stream?: TextStream }) {
    this.#stream = options.stream ?? process.stderr;
    this.#quiet = options.quiet;
    this.isLive = !options.quiet && this.#stream.isTTY === true && process.env.TERM !== 'dumb';
  }

  line(text: string): void {
    if (!this.#quiet) this.#print(text);
  }

  /** Said even when quiet: errors, warnings. */
  important(text: string): void {
    this.#print(text);
  }

  #print(text: string): void {
    this.clearBlock();
    this.#stream.write(`${text}\n`);
  }

  /** Draws the live block, over the one before. No-op where there is no terminal. */
  block(lines: readonly string[]): void {
    if (!this.isLive) return;
    const width = (this.#stream.columns || 80) - 1;
    const body = lines.map((line) => `\x1b[2K${line.slice(0, width)}`).join('\n');
    this.#stream.write(`${this.#cursorUp()}${body}\n\x1b[0J`);
    this.#blockLines = lines.length;
  }

  clearBlock(): void {
    if (this.#blockLines === 0) return;
    this.#stream.write(`${this.#cursorUp()}\x1b[0J`);
    this.#blockLines = 0;
  }

  #cursorUp(): string {
    return this.#blockLines === 0 ? '' : `\x1b[${this.#blockLines}F`;
  }

  logger(debug: boolean): Logger {
    const say =
      (level: string, important: boolean) => (message: string, fields?: Readonly<Record<string, unknown>>) => {
        const details =
          fields === undefined
            ? ''
            : ` (${Object.entries(fields)
                .map(([key, value]) => `${key}: ${value}`)
                .join(', ')})`;
        const text = printable(`${level}${message}${details}`);
        if (important) this.important(text);
        else this.line(text);
      };
    return {
      debug: debug ? say('debug: ', true) : () => {},
      info: say('', false),
      warn: say('warning: ', true),
    };
  }
}
