/** What the published page weighs, and that all of it comes from one place. */
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltPage, buildPage } from './site.ts';

const MAX_SCRIPT_BYTES = 1_000_000;

describe('the built page', () => {
  let page: BuiltPage;
  beforeAll(async () => {
    page = await buildPage();
  });
  afterAll(() => page.remove());

  const files = () => readdirSync(page.folder, { recursive: true, encoding: 'utf8' });

  it('has less than 1 MB of JavaScript, gzipped', () => {
    const scripts = files().filter((name) => ['.js', '.mjs'].includes(extname(name)));
    const sizes = scripts.map((name) => [name, gzipSync(readFileSync(join(page.folder, name))).byteLength] as const);
    const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
    expect(total, `${JSON.stringify(Object.fromEntries(sizes))}`).toBeLessThan(MAX_SCRIPT_BYTES);
    // The workers were bundled too, and not left behind as .ts.
    expect(scripts.length).toBeGreaterThan(3);
    expect(files().filter((name) => extname(name) === '.ts')).toEqual([]);
  });

  it('names no other origin in its HTML and CSS', () => {
    const markup = files().filter((name) => ['.html', '.css', '.webmanifest'].includes(extname(name)));
    expect(markup).toContain('index.html');
    for (const name of markup) {
      const text = readFileSync(join(page.folder, name), 'utf8');
      // Links that a visitor may follow are no part of the page; what it loads is.
      const loads = [
        ...text.matchAll(/<(?:script|link|img|source|iframe)\b[^>]*?(?:src|href)="([^"]+)"/g),
        ...text.matchAll(/url\(["']?([^"')]+)/g),
        ...text.matchAll(/@import\s+["']([^"']+)/g),
      ].map(([, url]) => url);
      expect(loads.filter((url) => /^(https?:)?\/\//.test(url ?? ''))).toEqual([]);
    }
  });

  it('works from any path: nothing is named from the root', () => {
    const html = readFileSync(join(page.folder, 'index.html'), 'utf8');
    expect([...html.matchAll(/(?:src|href)="(\/[^"]*)"/g)].map(([, url]) => url)).toEqual([]);
  });
});
