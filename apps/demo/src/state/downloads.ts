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

  /** One thing at a time: a new look-up ends the one before. */
  async function attempt<T>(work: (signal: AbortSignal) => Promise<T>, otherwise: DownloadAction): Promise<T | null> {
    abort?.abort();
    const own = new AbortController();
    abort = own;
    try {
      return await work(own.signal);
    } catch (thrown) {
      if (abort === own) act(otherwise);
      if (!wasStopped(thrown, own.signal)) tell(thrown);
      return null;
    } finally {
      if (abort === own) abort = null;
    }
  }

  async function lookUp(source: ModelSource): Promise<void> {
    act({ type: 'asking' });
    const remote = await attempt((signal) => store.inspect(source, signal), { type: 'dropped' });
    if (remote !== null) act({ type: 'found', remote });
  }

  async function download(remote: RemoteModel): Promise<StoredModel | null> {
    act({ type: 'began', remote });
    const onProgress = (progress: DownloadProgress): void => act({ type: 'progress', progress });
    const stored = await attempt((signal) => store.download(remote, { signal, onProgress }), { type: 'cut' });
    if (stored !== null) act({ type: 'stored' });
    await refresh();
    return stored;
  }

  return {
    state,
    lookUp,
    dropLookup() {
      abort?.abort();
      act({ type: 'dropped' });
    },
    download,
    async resume(source) {
      await lookUp(source);
      const { lookup } = state.value;
      return typeof lookup === 'string' ? null : download(lookup);
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
