/**
 * A first look at pasted JSONL while it is typed: lines counted, lines that are no JSON object named. It looks at a bounded
 * part, so that it never takes longer than a frame; the worker checks everything, fields included, before it runs anything.
 */

export const MAX_CHECKED_CHARACTERS = 200_000;
const MAX_FAULTS = 5;

export interface InputCheck {
  readonly requests: number;
  readonly faults: readonly { readonly line: number; readonly message: string }[];
  readonly moreFaults: number;
  /** Only the first part was looked at. */
  readonly partly: boolean;
}

export function checkJsonl(input: string): InputCheck {
  const partly = input.length > MAX_CHECKED_CHARACTERS;
  const lines = (partly ? input.slice(0, MAX_CHECKED_CHARACTERS) : input).split(/\r?\n/);
  if (partly) lines.pop();
  const faults: { line: number; message: string }[] = [];
  let requests = 0;
  let moreFaults = 0;
  lines.forEach((line, i) => {
    const text = i === 0 ? line.replace(/^\uFEFF/, '') : line;
    if (text.trim() === '') return;
    const message = faultOf(text);
    if (message === null) requests++;
    else if (faults.length < MAX_FAULTS) faults.push({ line: i + 1, message });
    else moreFaults++;
  });
  return { requests, faults, moreFaults, partly };
}

function faultOf(line: string): string | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return `not JSON (${error instanceof Error ? error.message : 'unreadable'})`;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'expected an object';
  const body = 'body' in value ? value.body : value;
  if (typeof body !== 'object' || body === null) return '"body" must be an object';
  return 'prompt' in body || 'messages' in body ? null : 'neither "prompt" nor "messages"';
}
