/**
 * Builds the page's service worker, sw.js, with a list of every file of the build and its hash. Runs when everything else is
 * written, so that the list is what is really served.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { build, type Plugin } from 'vite';
import type { PrecacheEntry } from '../src/service-worker/service-worker.ts';

const SERVICE_WORKER = 'sw.js';

/** @param source the service worker's module */
export function serviceWorker(source: string): Plugin {
  let target: string | false | string[] | undefined;
  return {
    name: 'glinthawk-service-worker',
    apply: 'build',
    configResolved: (config) => {
      target = config.build.target;
    },
    writeBundle: {
      order: 'post',
      sequential: true,
      handler: async ({ dir }) => {
        if (dir === undefined) throw new Error('the page is built into a directory');
        const entries = await precacheList(dir);
        const identity = sha256(JSON.stringify(entries) + sha256(await readFile(source)));
        await build({
          configFile: false,
          logLevel: 'warn',
          define: {
            __PRECACHE__: JSON.stringify(entries),
            __BUILD__: JSON.stringify(identity.slice(0, 16)),
          },
          build: {
            outDir: dir,
            emptyOutDir: false,
            copyPublicDir: false,
            ...(target === undefined ? {} : { target }),
            lib: { entry: source, formats: ['es'], fileName: () => SERVICE_WORKER },
          },
        });
      },
    },
  };
}

/** Files of a built page, as the service worker keeps them: index.html is the page itself. Source maps are for nobody's offline use. */
export async function precacheList(directory: string): Promise<readonly PrecacheEntry[]> {
  const found = await readdir(directory, { recursive: true, withFileTypes: true });
  const paths = found
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((path) => path !== SERVICE_WORKER && !path.endsWith('.map'))
    .sort();
  return Promise.all(
    paths.map(async (path) => ({
      path: path === 'index.html' ? '' : path,
      sha256: sha256(await readFile(join(directory, path))),
    })),
  );
}

function sha256(content: Uint8Array | string): string {
  return createHash('sha256').update(content).digest('hex');
}
