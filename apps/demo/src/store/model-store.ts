/**
 * The page's side of the store: lists and deletes by itself, leaves servers and writing to a worker of its own for each question, and
 * tells other tabs. Holds no model's bytes.
 */
import { AbortedError, GlinthawkError, InputError, UnsupportedError } from '@glinthawk/core';
import { DEFAULT_TIMING, type DownloadTiming } from './download-file.ts';
import { withModelAlone } from './model-locks.ts';
import { HUB_URL, isModelId, modelId } from './model-source.ts';
import type { DownloadProgress, ModelSource, ModelStore, PartialModel, RemoteModel, StoredModel } from './store-api.ts';
import { modelsDirectory, nullWhenAbsent, readModel } from './store-directory.ts';
import { errorOf, type Hub, type StoreCommand, type StoreReply } from './worker-messages.ts';

export interface ModelStoreOptions {
  /** A mirror of the hub, without a slash at its end. */
  readonly hubUrl?: string;
  readonly timing?: Partial<DownloadTiming>;
}

const CHANNEL = 'glinthawk models';

export async function openModelStore(options: ModelStoreOptions = {}): Promise<ModelStore> {
  return new OpfsModelStore(await whyUnavailable(), options);
}

const INSTEAD = 'Models can still be opened from files on disk, and the example is there.';

async function whyUnavailable(): Promise<string | null> {
  if (!globalThis.isSecureContext) {
    return `Browsers store files only for pages that come by https or from localhost; this one came from ${location.origin}. ${INSTEAD}`;
  }
  if (navigator.storage?.getDirectory === undefined || navigator.locks === undefined) {
    return `This browser has no origin private file system, where models would be stored. ${INSTEAD}`;
  }
  try {
    await modelsDirectory();
    return null;
  } catch (thrown) {
    const reason = thrown instanceof Error ? ` (${thrown.message})` : '';
    return `This browser lets the page store nothing${reason}; private windows and settings against site data do that. ${INSTEAD}`;
  }
}

class OpfsModelStore implements ModelStore {
  readonly unavailable: string | null;
  readonly #hubUrl: string;
  readonly #timing: DownloadTiming;
  readonly #channel: BroadcastChannel | null;
  readonly #listeners = new Set<() => void>();
  #token: string | null = null;

  constructor(unavailable: string | null, options: ModelStoreOptions) {
    this.unavailable = unavailable;
    this.#hubUrl = options.hubUrl ?? HUB_URL;
    this.#timing = { ...DEFAULT_TIMING, ...options.timing };
    this.#channel = unavailable === null ? new BroadcastChannel(CHANNEL) : null;
    this.#channel?.addEventListener('message', () => {
      for (const listener of this.#listeners) listener();
    });
  }

  async list(): Promise<{ readonly stored: readonly StoredModel[]; readonly partial: readonly PartialModel[] }> {
    const stored: StoredModel[] = [];
    const partial: PartialModel[] = [];
    if (this.unavailable !== null) return { stored, partial };
    for await (const [id, handle] of (await modelsDirectory()).entries()) {
      if (!isModelId(id) || handle.kind !== 'directory') continue;
      // Another tab may be deleting it.
      const model = await readModel(id, handle as FileSystemDirectoryHandle).catch(nullWhenAbsent);
      if (model === null) continue;
      if ('stored' in model) stored.push(model.stored);
      else partial.push(model.partial);
    }
    stored.sort((a, b) => b.storedAt.localeCompare(a.storedAt));
    partial.sort((a, b) => a.name.localeCompare(b.name));
    return { stored, partial };
  }

  async inspect(source: ModelSource, signal?: AbortSignal): Promise<RemoteModel> {
    this.#assertAvailable();
    const reply = await ask({ type: 'inspect', source, hub: this.#hub }, signal, () => {});
    if (reply.type !== 'inspected') throw unexpected(reply);
    return reply.remote;
  }

  async download(
    remote: RemoteModel,
    options: { readonly signal?: AbortSignal; readonly onProgress?: (progress: DownloadProgress) => void },
  ): Promise<StoredModel> {
    this.#assertAvailable();
    if (remote.files.length === 0) {
      throw new InputError('MODEL_AMBIGUOUS', `${remote.name} has several models; choose one`, {
        hint: remote.choices.map(({ name }) => name).join(', '),
      });
    }
    const id = await modelId(remote.source);
    // Keeps the browser from clearing the store when the disk runs low; some ask the visitor, who may take their time or refuse.
    void navigator.storage.persist?.().catch(() => false);
    return withModelAlone(id, async () => {
      try {
        const command: StoreCommand = { type: 'download', id, remote, hub: this.#hub, timing: this.#timing };
        const reply = await ask(command, options.signal, options.onProgress ?? (() => {}));
        if (reply.type !== 'downloaded') throw unexpected(reply);
        return reply.stored;
      } finally {
        this.#channel?.postMessage(null);
      }
    });
  }

  setHubToken(token: string | null): void {
    const trimmed = token?.trim() ?? '';
    if (trimmed !== '' && !/^[\x21-\x7e]{1,500}$/.test(trimmed)) {
      throw new InputError('HUB_TOKEN', 'an access token is one word of plain letters, digits and signs');
    }
    this.#token = trimmed === '' ? null : trimmed;
  }

  async remove(id: string): Promise<void> {
    this.#assertAvailable();
    if (!isModelId(id)) throw new InputError('STORE_NO_MODEL', 'there is no such model');
    await withModelAlone(id, async () => {
      await (await modelsDirectory()).removeEntry(id, { recursive: true }).catch(nullWhenAbsent);
    });
    this.#channel?.postMessage(null);
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get #hub(): Hub {
    return { url: this.#hubUrl, token: this.#token };
  }

  #assertAvailable(): void {
    if (this.unavailable !== null) throw new UnsupportedError('STORE_UNAVAILABLE', this.unavailable);
  }
}

type End = Exclude<StoreReply, { readonly type: 'progress' | 'failed' }>;

/** Puts one command to a worker of its own, which ends with it. @throws what the worker throws */
async function ask(
  command: StoreCommand,
  signal: AbortSignal | undefined,
  onProgress: (progress: DownloadProgress) => void,
): Promise<End> {
  if (signal?.aborted) throw new AbortedError();
  const worker = new Worker(new URL('./download-worker.ts', import.meta.url), { type: 'module', name: 'model store' });
  const stop = () => worker.postMessage({ type: 'stop' } satisfies StoreCommand);
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await new Promise((resolve, reject) => {
      worker.addEventListener('message', ({ data }: MessageEvent<StoreReply>) => {
        if (data.type === 'progress') onProgress(data.progress);
        else if (data.type === 'failed') reject(errorOf(data.error));
        else resolve(data);
      });
      worker.addEventListener('error', (event) => {
        event.preventDefault();
        reject(
          new GlinthawkError(
            'STORE_WORKER',
            `the worker that downloads models could not run: ${event.message || 'its script did not load'}`,
            { hint: 'Reload the page.' },
          ),
        );
      });
      worker.postMessage(command);
    });
  } finally {
    signal?.removeEventListener('abort', stop);
    worker.terminate();
  }
}

function unexpected(reply: End): GlinthawkError {
  return new GlinthawkError('STORE_INTERNAL', `the store's worker answered ${reply.type}`);
}
