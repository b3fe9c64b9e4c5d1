/**
 * Words of another machine that are shown to people or kept in results: messages, reasons, names, an Origin. Whoever is at the other
 * end chose them, so that they may be long, move a cursor or look like lines of our own: here they become one short plain line.
 */

/** Enough for the longest message of our own with its numbers; a node that has more to say isn't explaining anything. */
export const MAX_FOREIGN_CHARS = 500;

/** One line without control, formatting (direction marks, for example) and line-end characters, cut off where it is too long. */
export function foreignWords(text: string, maxChars = MAX_FOREIGN_CHARS): string {
  const line = text.replace(/[\s\p{Cc}\p{Cf}\p{Cs}]+/gu, ' ').trim();
  return line.length <= maxChars ? line : `${line.slice(0, maxChars - 1).toWellFormed()}…`;
}
