/** The page on a job's port: what is asked for, with its headers, and nothing else. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { answerWithPage, readPage } from './demo-page.ts';

async function served(isBuilt = true): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'glinthawk-page-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'site', 'assets'), { recursive: true });
  writeFileSync(join(folder, 'secret.txt'), 'secret');
  writeFileSync(join(folder, 'site', 'index.html'), '<!doctype html>');
  writeFileSync(join(folder, 'site', 'assets', 'kernel-1.wasm'), new Uint8Array(10_000));
  const page = isBuilt ? await readPage(join(folder, 'site')) : null;
  const server = createServer((asked, response) => answerWithPage(page, 'not built', asked, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

/** As it is written: fetch() would tidy the path up. */
function ask(port: number, path: string, method = 'GET', headers: Readonly<Record<string, string>> = {}) {
  return new Promise<{ status: number | undefined; headers: object; body: Buffer }>((resolve, reject) => {
    const asked = request({ port, host: '127.0.0.1', path, method, headers, agent: false }, async (response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of response) chunks.push(chunk as Buffer);
      resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) });
    });
    asked.on('error', reject).end();
  });
}

it('is given file by file, whole, typed, and isolated', async () => {
  const port = await served();
  for (const path of ['/', '/index.html', '/?x', '/#lend']) {
    const { status, headers, body } = await ask(port, path);
    expect([status, body.toString()]).toEqual([200, '<!doctype html>']);
    expect(headers).toMatchObject({
      'content-type': 'text/html; charset=utf-8',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
      'content-security-policy': "frame-ancestors 'none'",
      'x-frame-options': 'DENY',
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-cache',
    });
  }
  const plain = await ask(port, '/assets/kernel-1.wasm', 'GET', { range: 'bytes=10-5' });
  expect(plain).toMatchObject({ status: 200, headers: { 'content-type': 'application/wasm' } });
  expect(plain.body).toHaveLength(10_000);
  const zipped = await ask(port, '/assets/kernel-1.wasm', 'GET', { 'accept-encoding': 'gzip, br' });
  expect(zipped.headers).toMatchObject({ 'content-encoding': 'gzip' });
  expect(zipped.body.length).toBeLessThan(200);
  const head = await ask(port, '/assets/kernel-1.wasm', 'HEAD');
  expect(head).toMatchObject({ status: 200, headers: { 'content-length': '10000' }, body: Buffer.alloc(0) });
  const { etag } = plain.headers as { readonly etag: string };
  expect((await ask(port, '/assets/kernel-1.wasm', 'GET', { 'if-none-match': etag })).status).toBe(304);
});

it('is all there is', async () => {
  const port = await served();
  for (const path of [
    '/../secret.txt',
    '/..%2fsecret.txt',
    '/assets',
    '/assets/',
    '//',
    '/%',
    '/__proto__',
    `/${'x'.repeat(5000)}`,
  ]) {
    expect((await ask(port, path)).status, path).toBe(404);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) expect((await ask(port, '/', method)).status).toBe(405);
  const absent = await ask(await served(false), '/');
  expect([absent.status, absent.body.toString()]).toEqual([404, 'not built\n']);
});
