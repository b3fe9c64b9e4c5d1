/**
 * Which files a source means, and what their server says of them. The hub lists its repositories; of a folder at any other address
 * each file is asked for by name. Everything that a server says is checked here; nothing is stored.
 */
import { InputError, ModelFormatError, UnsupportedError } from '@glinthawk/core';
import {
  CONFIG_FILE,
  checkFileName,
  fileNameOfUrl,
  INDEX_FILE,
  isFileName,
  MAX_INDEX_BYTES,
  OPTIONAL_FILES,
  shardsOfIndex,
  WEIGHTS_FILE,
} from './file-names.ts';
import { fetchText, persistently, probeFile, type RequestOptions, readAtMost, request } from './http.ts';
import { formatModelSource } from './model-source.ts';
import { NetworkError } from './network-error.ts';
import type { ModelSource, RemoteChoice, RemoteFile } from './store-api.ts';
import { isGitOid } from './store-directory.ts';

export interface LocateOptions extends RequestOptions {
  /** Origin (and path) of the hub or of a mirror of it. */
  readonly hubUrl: string;
}

export interface Located {
  /** Empty when one of `choices` has to be made first. */
  readonly files: readonly RemoteFile[];
  readonly choices: readonly RemoteChoice[];
}

type HubSource = Extract<ModelSource, { readonly kind: 'hub' }>;

/** @throws InputError, ModelFormatError, NetworkError, AbortedError */
export async function locateModel(source: ModelSource, options: LocateOptions): Promise<Located> {
  if (source.kind === 'hub') return locateOnHub(source, options);
  const url = new URL(source.url);
  const files = url.pathname.endsWith('/')
    ? await probeFolder(url, options)
    : [await probed(fileNameOfUrl(url), url.href, options)];
  return { files, choices: [] };
}

/** The same files as their server has them now. @throws as locateModel */
export async function locateAgain(
  files: readonly RemoteFile[],
  options: RequestOptions,
): Promise<readonly RemoteFile[]> {
  const found: RemoteFile[] = [];
  for (const file of files) found.push(await probed(file.name, file.url, options));
  return found;
}

async function probed(name: string, url: string, options: RequestOptions): Promise<RemoteFile> {
  return {
    name,
    url,
    sha256: null,
    oid: null,
    ...(await persistently(options.signal, () => probeFile(name, url, options))),
  };
}

async function probeFolder(base: URL, options: RequestOptions): Promise<readonly RemoteFile[]> {
  const at = (name: string) => new URL(name, base).href;
  const config = await probed(CONFIG_FILE, at(CONFIG_FILE), options);
  const beside = await Promise.all(OPTIONAL_FILES.map((name) => probedIfThere(name, at(name), options)));
  const single = await probedIfThere(WEIGHTS_FILE, at(WEIGHTS_FILE), options);
  const weights = single === null ? await probeShards(at, options) : [single];
  return [config, ...beside.filter((file) => file !== null), ...weights];
}

async function probeShards(at: (name: string) => string, options: RequestOptions): Promise<readonly RemoteFile[]> {
  const index = await probedIfThere(INDEX_FILE, at(INDEX_FILE), options);
  if (index === null) {
    throw new InputError('MODEL_NOT_THERE', `the folder has neither ${WEIGHTS_FILE} nor ${INDEX_FILE}`, {
      hint: 'Give the address of a folder with config.json and safetensors, or of a .gguf file.',
    });
  }
  const shards: RemoteFile[] = [];
  for (const name of shardsOfIndex(await fetchText(index.url, MAX_INDEX_BYTES, options))) {
    shards.push(await probed(name, at(name), options));
  }
  return [index, ...shards];
}

/** null when the server hasn't got it; many answer with a page then. */
async function probedIfThere(name: string, url: string, options: RequestOptions): Promise<RemoteFile | null> {
  try {
    return await probed(name, url, options);
  } catch (thrown) {
    if (thrown instanceof NetworkError && (thrown.status === 404 || thrown.status === 403 || thrown.status === 410))
      return null;
    if (thrown instanceof ModelFormatError && thrown.code === 'MODEL_IS_A_PAGE') return null;
    throw thrown;
  }
}

interface HubFile {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string | null;
  readonly oid: string | null;
}

const MAX_LISTING_BYTES = 8 * 2 ** 20;
const MAX_LISTED = 10_000;
const SPLIT = /-\d{5}-of-\d{5}\.gguf$/i;

async function locateOnHub(source: HubSource, options: LocateOptions): Promise<Located> {
  const listed = await listHubFiles(source, options);
  const byPath = new Map(listed.map((file) => [file.path, file]));
  const ggufs = listed.filter(({ path }) => /\.gguf$/i.test(path) && !/mmproj|imatrix/i.test(path));
  if (source.file !== null) {
    const file = byPath.get(source.file);
    if (file === undefined) {
      throw new InputError('MODEL_NOT_THERE', `${source.repo} has no file ${source.file} at ${source.revision}`, {
        hint: choicesHint(ggufs),
      });
    }
    if (SPLIT.test(file.path)) throw splitRefused(file.path);
    return { files: await withProbe([hubFile(source, file, options)], options), choices: [] };
  }
  const whole = ggufs.filter(({ path }) => !SPLIT.test(path));
  const choices = whole.map(({ path, bytes }) => ({ source: { ...source, file: path }, name: path, bytes }));
  const set = byPath.has(CONFIG_FILE) ? await safetensorsSet(source, byPath, options) : [];
  if (set.length > 0) return { files: await withProbe(set, options), choices };
  const [only] = whole;
  if (only !== undefined && whole.length === 1)
    return { files: await withProbe([hubFile(source, only, options)], options), choices: [] };
  if (choices.length > 0) return { files: [], choices };
  const [split] = ggufs;
  if (split !== undefined) throw splitRefused(split.path);
  throw new InputError(
    'MODEL_NOT_THERE',
    `${formatModelSource(source)} has no weights that can be read here: neither ${WEIGHTS_FILE} (or its index) with config.json, nor a GGUF file`,
    {
      hint: listed.some(({ path }) => /\.(bin|pth|pt|onnx)$/.test(path))
        ? 'Its weights are in another format; look for a conversion to safetensors or GGUF.'
        : 'Check the name.',
    },
  );
}

function splitRefused(path: string): UnsupportedError {
  return new UnsupportedError(
    'UNSUPPORTED_GGUF',
    `${path} is one of several parts of a model; only whole files are read`,
    {
      hint: 'Take a smaller quantisation that is one file, or merge the parts with llama-gguf-split --merge.',
    },
  );
}

function choicesHint(files: readonly HubFile[]): string {
  if (files.length === 0) return 'It has no GGUF files.';
  return `It has ${files
    .slice(0, 12)
    .map(({ path }) => path)
    .join(', ')}${files.length > 12 ? ', …' : ''}.`;
}

async function safetensorsSet(
  source: HubSource,
  byPath: ReadonlyMap<string, HubFile>,
  options: LocateOptions,
): Promise<readonly RemoteFile[]> {
  const names = [CONFIG_FILE, ...OPTIONAL_FILES.filter((name) => byPath.has(name))];
  if (byPath.has(WEIGHTS_FILE)) {
    names.push(WEIGHTS_FILE);
  } else if (byPath.has(INDEX_FILE)) {
    names.push(
      INDEX_FILE,
      ...shardsOfIndex(await fetchText(hubFileUrl(source, INDEX_FILE, options.hubUrl), MAX_INDEX_BYTES, options)),
    );
  } else {
    return [];
  }
  return names.map((name) => {
    const file = byPath.get(name);
    if (file === undefined)
      throw new ModelFormatError(
        'MODEL_FILE_MISSING',
        `${INDEX_FILE} names ${name}, which ${source.repo} doesn't have`,
      );
    return hubFile(source, file, options);
  });
}

function hubFile(source: HubSource, { path, bytes, sha256, oid }: HubFile, { hubUrl }: LocateOptions): RemoteFile {
  const name = checkFileName(path.split('/').at(-1), source.repo);
  return { name, url: hubFileUrl(source, path, hubUrl), bytes, sha256, oid, etag: null, acceptsRanges: true };
}

function hubFileUrl(source: HubSource, path: string, hubUrl: string): string {
  return `${hubUrl}/${source.repo}/resolve/${encodeURIComponent(source.revision)}/${path.split('/').map(encodeURIComponent).join('/')}`;
}

/**
 * Asks for the largest of the files: the listing of a gated repository is public, its files are not, and that had better be known
 * before a download.
 */
async function withProbe(files: readonly RemoteFile[], options: LocateOptions): Promise<readonly RemoteFile[]> {
  const largest = files.reduce((a, b) => (b.bytes > a.bytes ? b : a));
  const { bytes, etag, acceptsRanges } = await probeFile(largest.name, largest.url, options);
  if (bytes !== largest.bytes) {
    throw new NetworkError(
      'NETWORK_CHANGED',
      `${largest.name} should have ${largest.bytes} bytes as the hub lists it, but its server has ${bytes}`,
      { hint: 'Look at it again.' },
    );
  }
  return files.map((file) => ({ ...file, acceptsRanges, etag: file === largest ? etag : null }));
}

async function listHubFiles(source: HubSource, options: LocateOptions): Promise<readonly HubFile[]> {
  const { listFiles } = await import('@huggingface/hub');
  const files: HubFile[] = [];
  const listing = listFiles({
    repo: source.repo,
    revision: encodeURIComponent(source.revision),
    hubUrl: options.hubUrl,
    recursive: true,
    fetch: (input) => fetchListing(String(input), options),
  });
  try {
    for await (const { type, path, size, lfs, oid } of listing) {
      const bytes = lfs?.size ?? size;
      if (type !== 'file' || typeof path !== 'string' || !Number.isSafeInteger(bytes) || bytes < 0) continue;
      // Others have names that no model's files have, and aren't offered.
      if (!path.split('/').every(isFileName)) continue;
      files.push({
        path,
        bytes,
        sha256: typeof lfs?.oid === 'string' && /^[0-9a-f]{64}$/.test(lfs.oid) ? lfs.oid : null,
        oid: isGitOid(oid) ? oid : null,
      });
      if (files.length === MAX_LISTED) break;
    }
  } catch (thrown) {
    if (!(thrown instanceof TypeError || thrown instanceof SyntaxError)) throw explainedForHub(thrown, source);
    throw new NetworkError('NETWORK_LISTING', `the hub's list of files of ${source.repo} can't be read`, {
      cause: thrown,
    });
  }
  return files;
}

/** One page of a listing, within a bound, from the hub itself whatever its Link header says. */
async function fetchListing(url: string, options: LocateOptions): Promise<Response> {
  if (new URL(url).origin !== new URL(options.hubUrl).origin) {
    throw new NetworkError(
      'NETWORK_LISTING',
      `the hub's list of files goes on at another server, ${new URL(url).host}`,
    );
  }
  const response = await request(url, { accept: 'application/json' }, options);
  const bytes = await readAtMost(response, MAX_LISTING_BYTES + 1, options.signal);
  if (bytes.byteLength > MAX_LISTING_BYTES) {
    throw new NetworkError('NETWORK_TOO_LARGE', `the hub's list of files is longer than ${MAX_LISTING_BYTES} bytes`);
  }
  const link = response.headers.get('link');
  return new Response(bytes, { headers: { 'content-type': 'application/json', ...(link === null ? {} : { link }) } });
}

/** The hub answers 401 for what doesn't exist, so as not to tell. */
function explainedForHub(thrown: unknown, source: HubSource): unknown {
  if (!(thrown instanceof NetworkError) || (thrown.status !== 401 && thrown.status !== 404)) return thrown;
  return new NetworkError(
    'NETWORK_NOT_FOUND',
    `the hub has no model ${source.repo} at ${source.revision} that is open to everybody`,
    {
      cause: thrown,
      status: thrown.status,
      hint: 'Check the name; for a private or gated model give an access token.',
    },
  );
}
