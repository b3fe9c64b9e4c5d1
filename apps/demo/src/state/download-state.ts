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
  readonly download: { readonly remote: RemoteModel; readonly progress: DownloadProgress | null } | null;
}

export type DownloadAction =
  | { readonly type: 'listed'; readonly stored: readonly StoredModel[]; readonly partial: readonly PartialModel[] }
  | { readonly type: 'asking' }
  | { readonly type: 'found'; readonly remote: RemoteModel }
  | { readonly type: 'dropped' }
  | { readonly type: 'began'; readonly remote: RemoteModel }
  | { readonly type: 'progress'; readonly progress: DownloadProgress }
  | { readonly type: 'stored' }
  /** Stopped or failed: what is here stays and can be resumed. */
  | { readonly type: 'cut' };

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
    case 'began':
      return { ...state, lookup: action.remote, download: { remote: action.remote, progress: null } };
    case 'progress':
      return state.download === null ? state : { ...state, download: { ...state.download, progress: action.progress } };
    case 'stored':
      return { ...state, lookup: 'none', download: null };
    case 'cut':
      return { ...state, download: null, lookup: keepBytes(state) };
  }
}

/** What a cut download brought counts for the button that resumes it. */
function keepBytes({ lookup, download }: DownloadState): DownloadState['lookup'] {
  if (download === null || download.progress === null) return lookup;
  return { ...download.remote, bytesHere: Math.max(download.remote.bytesHere, download.progress.bytesDone) };
}

/** Seconds left at the present rate; null when nothing moves. */
export function secondsLeft({ bytesDone, bytesTotal, bytesPerSecond }: DownloadProgress): number | null {
  return bytesPerSecond > 0 ? (bytesTotal - bytesDone) / bytesPerSecond : null;
}
