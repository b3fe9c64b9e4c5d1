/** The model store, driven from the page: look up, download, stop, resume, delete; what fails becomes a notice. */
import { AbortedError, GlinthawkError } from '@glinthawk/core';
import { type ReadonlySignal, signal } from '@preact/signals';
import type { DownloadProgress, ModelSource, ModelStore, RemoteModel, StoredModel } from '../store/store-api.ts';
import { type DownloadAction, type DownloadState, noDownloads, reduceDownloads } from './download-state.ts';

export interface Downloads {
  readonly state: ReadonlySignal<DownloadState>;
  lookUp(source: ModelSource): Promise<void>;
  dropLookup(): void;
  /** @returns the stored model, null when stopped or failed */
  download(remote: RemoteModel): Promise<StoredModel | null>;
  resume(source: ModelSource): Promise<StoredModel | null>;
  stop(): void;
  /** null forgets it. */
  setHubToken(token: string | null): void;
  remove(id: string): Promise<void>;
  close(): void;
}

export function createDownloads(store: ModelStore, tell: (thrown: unknown) => void): Downloads {
  const state = signal(noDownloads(store.unavailable));
  let abort: AbortController | null = null;
  /** Whose answer is still wanted. */
  let latestLookup: AbortController | null = null;
  let attempts = 0;

  function act(action: DownloadAction): void {
    state.value = reduceDownloads(state.value, action);
  }

  async function refresh(): Promise<void> {
    if (store.unavailable !== null) return;
    try {
      act({ type: 'listed', ...(await store.list()) });
    } catch (thrown) {
      tell(thrown);
    }
  }
  const unsubscribe = store.subscribe(() => void refresh());
  void refresh();

  /** One thing at a time: a new one stops the one before. @returns null when it was stopped or failed, which is told */
  async function attempt<T>(own: AbortController, work: (signal: AbortSignal) => Promise<T>): Promise<T | null> {
    abort?.abort();
    abort = own;
    try {
      const result = await work(own.signal);
      return own.signal.aborted ? null : result;
    } catch (thrown) {
      if (!wasStopped(thrown, own.signal)) tell(thrown);
      return null;
    } finally {
      if (abort === own) abort = null;
    }
  }

  async function lookUp(source: ModelSource): Promise<RemoteModel | null> {
    act({ type: 'asking' });
    const own = new AbortController();
    latestLookup = own;
    const remote = await attempt(own, (signal) => store.inspect(source, signal));
    if (latestLookup === own) act(remote === null ? { type: 'dropped' } : { type: 'found', remote });
    return remote;
  }

  async function download(remote: RemoteModel): Promise<StoredModel | null> {
    const number = ++attempts;
    latestLookup = null;
    act({ type: 'began', attempt: number, remote });
    const onProgress = (progress: DownloadProgress): void => act({ type: 'progress', attempt: number, progress });
    const stored = await attempt(new AbortController(), (signal) => store.download(remote, { signal, onProgress }));
    act({ type: stored === null ? 'cut' : 'stored', attempt: number });
    await refresh();
    return stored;
  }

  return {
    state,
    async lookUp(source) {
      await lookUp(source);
    },
    dropLookup() {
      abort?.abort();
      latestLookup = null;
      act({ type: 'dropped' });
    },
    download,
    async resume(source) {
      const remote = await lookUp(source);
      return remote === null ? null : download(remote);
    },
    stop: () => abort?.abort(),
    setHubToken: (token) => store.setHubToken(token),
    async remove(id) {
      try {
        await store.remove(id);
      } catch (thrown) {
        tell(thrown);
      }
      await refresh();
    },
    close() {
      abort?.abort();
      unsubscribe();
    },
  };
}

function wasStopped(thrown: unknown, signal: AbortSignal): boolean {
  if (thrown instanceof AbortedError) return true;
  return signal.aborted && !(thrown instanceof GlinthawkError);
}
