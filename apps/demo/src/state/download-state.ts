/**
 * Models of the hub or of a URL, and models kept by this browser, as the page shows them: looked up, being downloaded, stored,
 * unfinished. A pure reducer; the store itself does the work.
 */
import type { DownloadProgress, PartialModel, RemoteModel, StoredModel } from '../store/store-api.ts';

export interface DownloadState {
  readonly unavailable: string | null;
  readonly stored: readonly StoredModel[];
  readonly partial: readonly PartialModel[];
  readonly lookup: 'none' | 'asking' | RemoteModel;
  readonly download: Download | null;
}

/** One attempt at a download; what comes late from an earlier attempt has its number and is dropped. */
export interface Download {
  readonly attempt: number;
  readonly remote: RemoteModel;
  readonly progress: DownloadProgress | null;
}

export type DownloadAction =
  | { readonly type: 'listed'; readonly stored: readonly StoredModel[]; readonly partial: readonly PartialModel[] }
  | { readonly type: 'asking' }
  | { readonly type: 'found'; readonly remote: RemoteModel }
  | { readonly type: 'dropped' }
  | { readonly type: 'began'; readonly attempt: number; readonly remote: RemoteModel }
  | { readonly type: 'progress'; readonly attempt: number; readonly progress: DownloadProgress }
  | { readonly type: 'stored'; readonly attempt: number }
  /** Stopped or failed: what is here stays and can be resumed. */
  | { readonly type: 'cut'; readonly attempt: number };

export function noDownloads(unavailable: string | null): DownloadState {
  return { unavailable, stored: [], partial: [], lookup: 'none', download: null };
}

export function reduceDownloads(state: DownloadState, action: DownloadAction): DownloadState {
  switch (action.type) {
    case 'listed':
      return { ...state, stored: action.stored, partial: action.partial };
    case 'asking':
      return { ...state, lookup: 'asking' };
    case 'found':
      return { ...state, lookup: action.remote };
    case 'dropped':
      return { ...state, lookup: 'none' };
    case 'began': {
      const { attempt, remote } = action;
      return { ...state, lookup: remote, download: { attempt, remote, progress: null } };
    }
    case 'progress':
    case 'stored':
    case 'cut':
      return state.download?.attempt === action.attempt ? reduceDownload(state, state.download, action) : state;
  }
}

type OfDownload = Extract<DownloadAction, { readonly type: 'progress' | 'stored' | 'cut' }>;

/** Another model may be looked at by the time that a download ends: that look stays. */
function reduceDownload(state: DownloadState, download: Download, action: OfDownload): DownloadState {
  const { lookup } = state;
  const own = lookup === download.remote;
  switch (action.type) {
    case 'progress':
      return { ...state, download: { ...download, progress: action.progress } };
    case 'stored':
      return { ...state, download: null, lookup: own ? 'none' : lookup };
    case 'cut':
      return { ...state, download: null, lookup: own ? withBytes(download) : lookup };
  }
}

/** What a cut download brought counts for the button that resumes it. */
function withBytes({ remote, progress }: Download): RemoteModel {
  return progress === null ? remote : { ...remote, bytesHere: Math.max(remote.bytesHere, progress.bytesDone) };
}

/** Seconds left at the present rate; null when nothing moves. */
export function secondsLeft({ bytesDone, bytesTotal, bytesPerSecond }: DownloadProgress): number | null {
  return bytesPerSecond > 0 ? (bytesTotal - bytesDone) / bytesPerSecond : null;
}
