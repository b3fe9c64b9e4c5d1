/** What is said and which status the process ends with when something was thrown. */
import { AbortedError, GlinthawkError, InputError, toError } from '@glinthawk/core';

export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

export function exitCode(error: Error): number {
  if (error instanceof AbortedError) return EXIT.interrupted;
  return error instanceof InputError ? EXIT.usage : EXIT.failed;
}

/** The message and what to do; the stack and the causes when `debug` is set. */
export function describeFailure(thrown: unknown, debug: boolean): string {
  const error = toError(thrown);
  const isOurs = error instanceof GlinthawkError;
  const lines = [isOurs ? `error: ${error.message}` : `internal error: ${error.message}`];
  if (isOurs && error.hint !== undefined) lines.push(`  hint: ${error.hint}`);
  if (debug) lines.push(stackOf(error));
  else if (!isOurs) lines.push('  hint: run again with --debug to see where, and please report it');
  return lines.join('\n');
}

function stackOf(error: Error): string {
  const stack = error.stack ?? String(error);
  return error.cause === undefined ? stack : `${stack}\ncaused by: ${stackOf(toError(error.cause))}`;
}
