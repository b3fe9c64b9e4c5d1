/** Wherever the page comes from, it has shared memory and can't be framed: `npm run demo` sends what a job's port does. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { preview } from 'vite';
import { expect, it, onTestFinished } from 'vitest';
import { answerWithPage, readPage } from '../../apps/cli/src/demo-page.ts';
import { repositoryRoot } from '../models.ts';
import { temporaryFolder } from './command.ts';

const NAMES = [
  'cross-origin-opener-policy',
  'cross-origin-embedder-policy',
  'content-security-policy',
  'x-frame-options',
  'x-content-type-options',
  'referrer-policy',
];

async function pageHeaders(url: string): Promise<Readonly<Record<string, string | null>>> {
  const response = await fetch(url);
  expect([response.status, await response.text()]).toEqual([200, '<!doctype html>']);
  return Object.fromEntries(NAMES.map((name) => [name, response.headers.get(name)]));
}

it('vite preview sends the headers of a job’s port', async () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, 'page'));
  writeFileSync(join(folder, 'page', 'index.html'), '<!doctype html>');

  const page = await readPage(join(folder, 'page'));
  const server = createServer((request, response) => answerWithPage(page, 'not built', request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  const ofAJob = await pageHeaders(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);

  const previewed = await preview({
    configFile: join(repositoryRoot, 'apps', 'demo', 'vite.config.ts'),
    logLevel: 'silent',
    build: { outDir: join(folder, 'page') },
    preview: { host: '127.0.0.1', port: 0 },
  });
  onTestFinished(() => previewed.close());
  const ofPreview = await pageHeaders(previewed.resolvedUrls?.local[0] ?? '');

  expect(ofAJob).toMatchObject({ 'x-frame-options': 'DENY', 'content-security-policy': "frame-ancestors 'none'" });
  expect(ofPreview).toEqual(ofAJob);
});
