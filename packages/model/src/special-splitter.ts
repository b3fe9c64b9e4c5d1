/** Finds special tokens written in a text: at each place the longest one that begins there. */

export interface SpecialToken {
  readonly text: string;
  readonly id: number;
}

export class SpecialSplitter {
  /** By first UTF-16 unit, longest first. */
  readonly #byFirst = new Map<number, SpecialToken[]>();

  constructor(tokens: readonly SpecialToken[]) {
    for (const token of tokens) {
      if (token.text === '') continue;
      const first = token.text.charCodeAt(0);
      const alike = this.#byFirst.get(first);
      if (alike === undefined) this.#byFirst.set(first, [token]);
      else alike.push(token);
    }
    for (const alike of this.#byFirst.values()) alike.sort((a, b) => b.text.length - a.text.length);
  }

  /** Pieces of ordinary text, never empty, and ids of special tokens, in order. */
  split(text: string): (string | number)[] {
    const parts: (string | number)[] = [];
    let start = 0;
    for (let at = 0; at < text.length; ) {
      const found = this.#byFirst.get(text.charCodeAt(at))?.find((token) => text.startsWith(token.text, at));
      if (found === undefined) {
        at++;
        continue;
      }
      if (at > start) parts.push(text.slice(start, at));
      parts.push(found.id);
      at += found.text.length;
      start = at;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }
}
