/**
 * What a person pastes, as a ModelSource: an id of the hub, an address of the hub's pages, a .gguf file, or a folder. Also a
 * source's one text form, which is what its id in the store is made of. Asks no server.
 */
import { InputError, UnsupportedError } from '@glinthawk/core';
import { sha256 } from 'hash-wasm';
import { quoteHostile } from './file-names.ts';
import type { ModelSource } from './store-api.ts';

export const HUB_URL = 'https://huggingface.co';
const HUB_HOSTS: ReadonlySet<string> = new Set(['huggingface.co', 'www.huggingface.co', 'hf.co']);
const DEFAULT_REVISION = 'main';
const MAX_TEXT = 2048;

const REPO = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9_][\w.-]{0,95}$/;
const REVISION = /^[A-Za-z0-9_][\w./+-]{0,199}$/;
/** A path in a repo. */
const REPO_FILE = /^[A-Za-z0-9_][\w.+-]*(\/[A-Za-z0-9_][\w.+-]*){0,7}$/;
const HINT =
  'Give a repository on the hub (owner/name, owner/name@revision, owner/name:file.gguf), the address of a .gguf file, or the address of a folder with config.json and safetensors, ending in "/".';

/** @throws InputError saying what is wrong with it; UnsupportedError for what this version doesn't read */
export function parseModelSource(text: string): ModelSource {
  const trimmed = text.trim();
  if (trimmed === '') throw new InputError('SOURCE_EMPTY', 'no model is named', { hint: HINT });
  if (trimmed.length > MAX_TEXT) {
    throw new InputError(
      'SOURCE_TOO_LONG',
      `a model's name or address has at most ${MAX_TEXT} characters, found ${trimmed.length}`,
    );
  }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(trimmed)?.[1]?.toLowerCase();
  if (scheme === 'http' || scheme === 'https') return ofUrl(trimmed);
  if (scheme === 'hf') return ofId(trimmed.slice('hf://'.length));
  if (scheme !== undefined) {
    throw new InputError('SOURCE_SCHEME', `a model can't be fetched by ${scheme}://`, {
      hint:
        scheme === 'file' ? 'Open files of this computer by choosing or dropping them.' : 'Use https:// or http://.',
    });
  }
  const [first] = trimmed.split('/', 1);
  if (first !== undefined && HUB_HOSTS.has(first.toLowerCase())) return ofUrl(`https://${trimmed}`);
  return ofId(trimmed);
}

function ofId(text: string): ModelSource {
  const match = /^([^@:]+)(?:@([^:]+))?(?::(.+))?$/.exec(text);
  const [, repo = '', revision = DEFAULT_REVISION, file] = match ?? [];
  if (match === null || !REPO.test(repo)) {
    const bare = /^[\w.-]+$/.test(text);
    throw new InputError(
      'SOURCE_NOT_A_MODEL',
      bare && /\.(gguf|safetensors)$/i.test(text)
        ? `${quoteHostile(text)} is a file's name, without where it is`
        : bare
          ? `${quoteHostile(text)} has no owner: a repository's id is owner/name`
          : `${quoteHostile(text)} is neither a repository's id nor an address`,
      { hint: HINT },
    );
  }
  return hubSource(repo, revision, file ?? null);
}

function hubSource(repo: string, revision: string, file: string | null): ModelSource {
  if (!REVISION.test(revision) || revision.includes('..')) {
    throw new InputError('SOURCE_REVISION', `${quoteHostile(revision)} is no revision (a branch, a tag or a commit)`);
  }
  if (file !== null) {
    if (!REPO_FILE.test(file) || file.includes('..')) {
      throw new InputError('SOURCE_FILE', `${quoteHostile(file)} is no file of a repository`);
    }
    if (!file.toLowerCase().endsWith('.gguf')) {
      throw new InputError('SOURCE_FILE', `${quoteHostile(file)} is not a .gguf file`, {
        hint: `For the repository's safetensors, leave the file out: ${repo}`,
      });
    }
  }
  return { kind: 'hub', repo, revision, file };
}

function ofUrl(text: string): ModelSource {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new InputError('SOURCE_URL', `${quoteHostile(text)} is not a valid address`, { hint: HINT });
  }
  if (url.username !== '' || url.password !== '') {
    throw new InputError('SOURCE_URL', 'an address with a user name or password in it is not fetched by browsers');
  }
  if (HUB_HOSTS.has(url.hostname)) return ofHubPage(url);
  url.hash = '';
  const path = url.pathname.toLowerCase();
  if (path.endsWith('.gguf')) return { kind: 'url', url: url.href };
  if (path.endsWith('/')) {
    url.search = '';
    return { kind: 'url', url: url.href };
  }
  const inFolder = /\.(json|safetensors|jinja)$/.test(path);
  throw new InputError(
    'SOURCE_URL',
    inFolder
      ? `${quoteHostile(url.href)} is one file of a folder; a model in safetensors needs the whole folder`
      : `${quoteHostile(url.href)} ends neither in .gguf nor in "/"`,
    { hint: inFolder ? `Give the folder's address: ${new URL('.', url).href}` : HINT },
  );
}

/** `/owner/name`, `/owner/name/tree/rev`, `/owner/name/(blob|resolve|raw)/rev/path`. */
function ofHubPage(url: URL): ModelSource {
  let parts: string[];
  try {
    parts = url.pathname
      .split('/')
      .filter((part) => part !== '')
      .map(decodeURIComponent);
  } catch {
    throw new InputError('SOURCE_URL', `${quoteHostile(url.href)} is not a valid address`);
  }
  const [owner = '', name = '', view, revision = DEFAULT_REVISION, ...path] = parts;
  if (owner === 'datasets' || owner === 'spaces' || owner === 'collections') {
    throw new InputError('SOURCE_NOT_A_MODEL', `${quoteHostile(url.href)} is one of the hub's ${owner}, not a model`);
  }
  const repo = `${owner}/${name}`;
  if (!REPO.test(repo)) {
    throw new InputError('SOURCE_NOT_A_MODEL', `${quoteHostile(url.href)} is not the page of a model`, {
      hint: `A model's page is ${HUB_URL}/owner/name`,
    });
  }
  if (view === undefined) return hubSource(repo, DEFAULT_REVISION, null);
  if (view === 'tree') {
    if (path.length > 0) {
      throw new UnsupportedError(
        'SOURCE_SUBFOLDER',
        `${repo}: a folder inside a repository (${quoteHostile(path.join('/'))}) can't be taken as a model`,
        {
          hint: `Name a .gguf file in it: ${repo}:${path.join('/')}/file.gguf`,
        },
      );
    }
    return hubSource(repo, revision, null);
  }
  if ((view === 'blob' || view === 'resolve' || view === 'raw') && path.length > 0) {
    const file = path.join('/');
    // The page of config.json, say, means the model that it belongs to.
    return hubSource(repo, revision, file.toLowerCase().endsWith('.gguf') ? file : null);
  }
  return hubSource(repo, DEFAULT_REVISION, null);
}

/** As a person would write it; parseModelSource reads it back. */
export function formatModelSource(source: ModelSource): string {
  if (source.kind === 'url') return source.url;
  const revision = source.revision === DEFAULT_REVISION ? '' : `@${source.revision}`;
  return `${source.repo}${revision}${source.file === null ? '' : `:${source.file}`}`;
}

const ID = /^[0-9a-f]{32}$/;

/** Names a source's directory in the store. */
export async function modelId(source: ModelSource): Promise<string> {
  return (await sha256(`${source.kind} ${formatModelSource(source)}`)).slice(0, 32);
}

export function isModelId(text: string): boolean {
  return ID.test(text);
}

/** As the person's own name for it: the repository, or the last part of an address. */
export function nameOfSource(source: ModelSource): string {
  if (source.kind === 'hub') {
    return source.file === null ? source.repo : `${source.repo}: ${source.file.split('/').at(-1) ?? source.file}`;
  }
  const url = new URL(source.url);
  const last = url.pathname.split('/').findLast((part) => part !== '');
  let name = last ?? url.host;
  try {
    name = decodeURIComponent(name);
  } catch {
    // A stray %: as it stands.
  }
  return Array.from(name, (character) => (/\p{C}/u.test(character) ? '?' : character))
    .join('')
    .slice(0, 120);
}

/** Parsed from what the store or another tab kept. */
export function readModelSource(value: unknown): ModelSource | null {
  if (typeof value !== 'object' || value === null || !('kind' in value)) return null;
  try {
    if (value.kind === 'url' && 'url' in value && typeof value.url === 'string') return parseModelSource(value.url);
    if (value.kind !== 'hub' || !('repo' in value && 'revision' in value && 'file' in value)) return null;
    const { repo, revision, file } = value;
    if (typeof repo !== 'string' || typeof revision !== 'string' || !(file === null || typeof file === 'string'))
      return null;
    return REPO.test(repo) ? hubSource(repo, revision, file) : null;
  } catch {
    return null;
  }
}
