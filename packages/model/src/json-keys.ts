/** What JSON.parse forgets: whether an object named a key twice. */

/**
 * The first key that the outermost object of `json` has more than once. `json` must be valid: JSON.parse has taken it.
 */
export function duplicateKey(json: string): string | undefined {
  const keys = new Set<string>();
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    switch (json.charCodeAt(at)) {
      case 0x7b: // {
      case 0x5b: // [
        depth++;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        depth--;
        break;
      case 0x22: {
        const start = at;
        at = endOfString(json, at);
        if (depth === 1 && isKey(json, at + 1)) {
          const key = JSON.parse(json.slice(start, at + 1)) as string;
          if (keys.has(key)) return key;
          keys.add(key);
        }
        break;
      }
      default:
    }
  }
  return undefined;
}

/** Index of the closing quote of the string that opens at `start`. */
function endOfString(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length && json.charCodeAt(at) !== 0x22) at += json.charCodeAt(at) === 0x5c ? 2 : 1;
  return at;
}

function isKey(json: string, after: number): boolean {
  let at = after;
  while (/\s/.test(json.charAt(at))) at++;
  return json.charAt(at) === ':';
}
