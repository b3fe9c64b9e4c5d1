/**
 * What JSON.parse doesn't say of a text that it accepts: that a key stands twice in one object (the last one silently wins), and
 * how deep it nests. One pass without recursion; strings are skipped, not decoded, but for keys with escapes.
 */

/** No request needs more; parsers and revivers that recurse are safe with it. */
export const MAX_JSON_DEPTH = 256;

export type JsonFlaw = { readonly type: 'duplicate'; readonly key: string } | { readonly type: 'depth' };

/** @param text valid JSON @returns the first flaw, or null */
export function findJsonFlaw(text: string): JsonFlaw | null {
  /** Of each open object its keys, of each open array null. */
  const open: (Set<string> | null)[] = [];
  let isKeyNext = false;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '{':
      case '[':
        if (open.length === MAX_JSON_DEPTH) return { type: 'depth' };
        isKeyNext = text[at] === '{';
        open.push(isKeyNext ? new Set() : null);
        break;
      case '}':
      case ']':
        open.pop();
        isKeyNext = false;
        break;
      case ',':
        isKeyNext = open.at(-1) instanceof Set;
        break;
      case '"': {
        const end = stringEnd(text, at);
        const keys = open.at(-1);
        if (isKeyNext && keys instanceof Set) {
          const source = text.slice(at, end + 1);
          const key = source.includes('\\') ? (JSON.parse(source) as string) : source.slice(1, -1);
          if (keys.has(key)) return { type: 'duplicate', key };
          keys.add(key);
        }
        isKeyNext = false;
        at = end;
        break;
      }
      default:
    }
  }
  return null;
}

/** Where the string that begins at `start` has its closing quote. */
function stringEnd(text: string, start: number): number {
  let end = start;
  for (;;) {
    end = text.indexOf('"', end + 1);
    let backslashes = 0;
    while (text[end - 1 - backslashes] === '\\') backslashes++;
    if (backslashes % 2 === 0) return end;
  }
}
