/**
 * Models kept by this browser, in the origin private file system (OPFS), so that a later visit needs no network. What is stored is
 * whole: every file has the size and checksum that it should have, or it is not listed as complete.
 */

export type ModelSource =
  /** `owner/name`, `owner/name@revision`, `owner/name:file.gguf`, on the hub. */
  | { readonly kind: 'hub'; readonly repo: string; readonly revision: string; readonly file: string | null }
  /** One .gguf file, or a folder with config.json and safetensors (URL ends in `/`). */
  | { readonly kind: 'url'; readonly url: string };

export interface RemoteFile {
  readonly name: string;
  readonly url: string;
  readonly bytes: number;
  /** Hex, where the server tells it. */
  readonly sha256: string | null;
  /** Git's id of the content, hex, where the hub lists it. */
  readonly oid: string | null;
  /** Strong validator: a resumed download must be of the same file. */
  readonly etag: string | null;
  readonly acceptsRanges: boolean;
}

/** One of several models that a repository holds. */
export interface RemoteChoice {
  readonly source: ModelSource;
  /** Its path in the repository. */
  readonly name: string;
  readonly bytes: number;
}

/** What is known before anything is stored. */
export interface RemoteModel {
  readonly source: ModelSource;
  readonly name: string;
  readonly files: readonly RemoteFile[];
  readonly bytes: number;
  /** Of an earlier, unfinished download of the same files. */
  readonly bytesHere: number;
  /** From the header, read by ranges; null where the server has none. Weights as f32, for the WASM tier. */
  readonly parameters: number | null;
  readonly wasmWeightBytes: number | null;
  /** What the browser grants this page and what of it is used; null where it doesn't tell. */
  readonly quotaBytes: number | null;
  readonly usedBytes: number | null;
  /** Other models in the same repository: its GGUF files. Where there are no `files`, one of these has to be chosen. */
  readonly choices: readonly RemoteChoice[];
  /** What speaks against it, in words: larger than the quota, more memory than a WASM tier has, …; empty when nothing does. */
  readonly obstacles: readonly string[];
}

export interface StoredFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface StoredModel {
  readonly id: string;
  readonly name: string;
  readonly source: ModelSource;
  readonly files: readonly StoredFile[];
  readonly bytes: number;
  /** ISO 8601. */
  readonly storedAt: string;
}

/** A download that was cut, stopped or left with the page; resume it by downloading the same source again. */
export interface PartialModel {
  readonly id: string;
  readonly name: string;
  readonly source: ModelSource;
  readonly bytesHere: number;
  readonly bytes: number;
}

export interface DownloadProgress {
  readonly file: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
  readonly bytesPerSecond: number;
  /** Set while a cut connection is being tried again. */
  readonly retrying: string | null;
  /** What a person should know of it, in a sentence: that it had to start anew, and why. */
  readonly note: string | null;
}

export interface ModelStore {
  /** null when models can be stored here; else why not, in words. */
  readonly unavailable: string | null;
  list(): Promise<{ readonly stored: readonly StoredModel[]; readonly partial: readonly PartialModel[] }>;
  /** Asks the server; stores nothing. @throws InputError, NetworkError */
  inspect(source: ModelSource, signal?: AbortSignal): Promise<RemoteModel>;
  /** Downloads what is missing, checks all. One tab at a time per model. @throws NetworkError, ModelFormatError, CapacityError, AbortedError */
  download(
    remote: RemoteModel,
    options: { readonly signal?: AbortSignal; readonly onProgress?: (progress: DownloadProgress) => void },
  ): Promise<StoredModel>;
  /**
   * For gated and private repositories: sent to the hub's own origin only, and kept by this object only, never stored.
   * null forgets it.
   */
  setHubToken(token: string | null): void;
  /** Forgets a stored or a partial model. @throws InputError when it is in use, here or in another tab */
  remove(id: string): Promise<void>;
  /** Called when another tab stored or removed something; returns what ends the subscription. */
  subscribe(listener: () => void): () => void;
}
