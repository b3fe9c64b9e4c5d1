/**
 * Keeps the page and the example model for visits without a network: exactly the files of one build, in a cache that is named after
 * it, checked against their hashes. Answers for these and for nothing else, never stores anything else, and hands out each response
 * as its server gave it, headers that isolate the page included. A new build takes over once no tab shows the old one.
 *
 * Built by vite/service-worker-plugin.ts, which puts the list in; absent in development.
 */

export interface PrecacheEntry {
  /** Relative to the page; the page itself is the empty string. */
  readonly path: string;
  /** SHA-256 of the content, hex. */
  readonly sha256: string;
}

declare const __PRECACHE__: readonly PrecacheEntry[];
declare const __BUILD__: string;

/** The parts of ServiceWorkerGlobalScope that are used; TypeScript's `dom` and `webworker` libraries exclude each other. */
interface ExtendableEvent {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface Scope {
  readonly registration: { readonly scope: string };
  addEventListener(type: 'install' | 'activate', listener: (event: ExtendableEvent) => void): void;
  addEventListener(type: 'fetch', listener: (event: FetchEvent) => void): void;
}

const scope = globalThis as unknown as Scope;
const PREFIX = `glinthawk ${scope.registration.scope} `;
const CACHE = `${PREFIX}${__BUILD__}`;
/** Files fetched at once while installing. */
const PARALLEL = 4;

const page = scope.registration.scope;
const entries: readonly PrecacheEntry[] = __PRECACHE__;
const urls: ReadonlySet<string> = new Set(entries.map(({ path }) => urlOf(path)));

function urlOf(path: string): string {
  return new URL(path, page).href;
}

scope.addEventListener('install', (event) => event.waitUntil(precache()));
scope.addEventListener('activate', (event) => event.waitUntil(removeOldCaches()));
scope.addEventListener('fetch', (event) => {
  const url = precachedUrl(event.request);
  if (url !== null) event.respondWith(answer(url, event.request));
});

async function precache(): Promise<void> {
  const cache = await caches.open(CACHE);
  const left = [...entries];
  const next = async () => {
    for (let entry = left.shift(); entry !== undefined; entry = left.shift()) await store(cache, entry);
  };
  try {
    await Promise.all(Array.from({ length: PARALLEL }, next));
  } catch (thrown) {
    await caches.delete(CACHE);
    throw thrown;
  }
}

/** A server that is being updated may mix two builds; the hash tells, and a later visit tries again. */
async function store(cache: Cache, { path, sha256 }: PrecacheEntry): Promise<void> {
  const url = urlOf(path);
  const response = await fetch(url, { cache: 'no-cache' });
  if (!response.ok || response.redirected) throw new Error(`${url} answered ${response.status}`);
  const bytes = await response.clone().arrayBuffer();
  const found = [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))];
  if (found.map((byte) => byte.toString(16).padStart(2, '0')).join('') !== sha256) {
    throw new Error(`${url} is not of this build`);
  }
  await cache.put(url, response);
}

async function removeOldCaches(): Promise<void> {
  const names = await caches.keys();
  await Promise.all(
    names.filter((name) => name.startsWith(PREFIX) && name !== CACHE).map((name) => caches.delete(name)),
  );
}

/** null for everything that isn't of the build. */
function precachedUrl(request: Request): string | null {
  if (request.method !== 'GET' || request.headers.has('range')) return null;
  const url = new URL(request.url);
  url.hash = '';
  // The page reads its own parameters.
  if (request.mode === 'navigate') url.search = '';
  const href = url.href === urlOf('index.html') ? page : url.href;
  return urls.has(href) ? href : null;
}

async function answer(url: string, request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  // A cache that the browser cleared is no reason to fail.
  return (await cache.match(url, { ignoreVary: true })) ?? fetch(request);
}
