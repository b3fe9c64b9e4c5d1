/**
 * What the page has to tell beside its normal course: failures with what to do about them, and remarks. Kept until dismissed;
 * the same one again is counted rather than stacked, and only the latest few are kept.
 */
import { reportError } from '../engine/error-report.ts';
import type { ErrorReport, Event } from '../engine/protocol.ts';

export interface Notice {
  readonly id: number;
  readonly level: 'info' | 'warn' | 'error';
  readonly text: string;
  readonly hint: string | null;
  readonly count: number;
  readonly atMs: number;
}

export type NewNotice = Pick<Notice, 'level' | 'text' | 'hint'>;

export const MAX_NOTICES = 6;
/** One failure may end a run, its batch and the engine at once: within this time the same text is the same failure. */
const SAME_FAILURE_MS = 300;

export function addNotice(notices: readonly Notice[], added: NewNotice, atMs: number): readonly Notice[] {
  const same = notices.find(({ level, text }) => level === added.level && text === added.text);
  if (same !== undefined) {
    const count = atMs - same.atMs < SAME_FAILURE_MS ? same.count : same.count + 1;
    return notices.map((notice) => (notice === same ? { ...same, hint: added.hint, count, atMs } : notice));
  }
  const id = notices.reduce((latest, notice) => Math.max(latest, notice.id), 0) + 1;
  return [...notices, { ...added, id, count: 1, atMs }].slice(-MAX_NOTICES);
}

export function dismissNotice(notices: readonly Notice[], id: number): readonly Notice[] {
  return notices.filter((notice) => notice.id !== id);
}

/** What an event has to say, if anything. */
export function noticeOf(event: Event): NewNotice | null {
  switch (event.type) {
    case 'failed':
      return noticeOfError(event.error);
    case 'notice':
      return { level: event.notice.level, text: event.notice.text, hint: null };
    case 'requestFailed':
      return noticeOfError(event.error);
    case 'ended':
      return event.error === null ? null : noticeOfError(event.error);
    default:
      return null;
  }
}

export function noticeOfError({ message, hint }: ErrorReport): NewNotice {
  return { level: 'error', text: sentence(message), hint: hint === null ? null : sentence(hint) };
}

/** Of anything thrown in the page; hints are the page's, as for what its worker reports. */
export function noticeOfThrown(thrown: unknown): NewNotice {
  return noticeOfError(reportError(thrown));
}

function sentence(text: string): string {
  const trimmed = text.trim();
  // A file's, a host's or an address's name stays as it is.
  const [word = ''] = trimmed.split(/\s/, 1);
  const isName = /[\d/:._]/.test(word.replace(/[.:,;]$/, ''));
  const first = isName ? trimmed.charAt(0) : trimmed.charAt(0).toUpperCase();
  return first + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? '' : '.');
}
