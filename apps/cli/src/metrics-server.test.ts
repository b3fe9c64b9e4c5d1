/** The port for monitoring: two pages, read by anybody, and nothing else that a stranger could do with it. */
import { connect, Socket } from 'node:net';
import { InputError } from '@glinthawk/core';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type MetricsServerOptions, serveMetrics } from './metrics-server.ts';

async function served(options: Partial<MetricsServerOptions> = {}) {
  const server = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    metrics: async () => 'up 1\n',
    contentType: 'text/plain; version=0.0.4; charset=utf-8',
    isServing: () => true,
    ...options,
  });
  onTestFinished(() => server.close());
  return server;
}

/** What comes back for these bytes, until the connection is closed. */
function say(url: string, text: string | Uint8Array): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1', () => socket.write(text));
    let answer = '';
    socket.on('error', () => {});
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('close', () => resolve(answer));
  });
}

it('gives the figures, whole, to GET and HEAD, whatever the query', async () => {
  const { url } = await served();
  for (const path of ['/metrics', '/metrics?name[]=up']) {
    const response = await fetch(url + path);
    expect([response.status, await response.text()]).toEqual([200, 'up 1\n']);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(response.headers.get('cache-control')).toBe('no-store');
  }
  const head = await fetch(`${url}/metrics`, { method: 'HEAD' });
  expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '5', '']);
});

it('says whether it serves or drains', async () => {
  let isServing = true;
  const { url } = await served({ isServing: () => isServing });
  const health = async () => {
    const response = await fetch(`${url}/healthz`);
    return [response.status, await response.text()];
  };
  expect(await health()).toEqual([200, 'serving\n']);
  isServing = false;
  expect(await health()).toEqual([503, 'draining\n']);
});

describe('whoever else comes', () => {
  it('asks for something else, in another way, or with a body', async () => {
    const { url } = await served();
    for (const path of ['/', '/metrics/', '/Metrics', '/../metrics', '//', '/__proto__']) {
      expect(await say(url, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`), path).toMatch(/^HTTP\/1.1 404 /);
    }
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE']) {
      expect(await say(url, `${method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n`), method).toMatch(
        /^HTTP\/1.1 405 [\s\S]*\r\nAllow: GET, HEAD\r\n/,
      );
    }
    for (const body of ['Content-Length: 3\r\n\r\nabc', 'Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n']) {
      expect(await say(url, `GET /metrics HTTP/1.1\r\nHost: x\r\n${body}`)).toMatch(/^HTTP\/1.1 400 /);
    }
    // An upgrade is none, and one connection answers once.
    const twice = 'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'.repeat(2);
    expect((await say(url, twice)).match(/HTTP\/1.1 200 /g)).toHaveLength(1);
  });

  it('speaks no HTTP, too long, or not at all', async () => {
    const { url } = await served();
    expect(await say(url, 'hello\r\n\r\n')).toMatch(/^HTTP\/1.1 400 /);
    expect(await say(url, new Uint8Array(100_000))).toMatch(/^HTTP\/1.1 400 |^$/);
    expect(await say(url, `GET /metrics HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 431 /,
    );
    expect(await say(url, 'CONNECT example.org:80 HTTP/1.1\r\nHost: x\r\n\r\n')).toBe('');
    expect((await fetch(`${url}/metrics`)).status).toBe(200);
  });

  it('takes its time, or comes too often, and keeps nobody else out for long', async () => {
    const { url } = await served({ patienceMs: 100 });
    const drip = new Socket().connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
    drip.write('GET /metrics HTTP/1.1\r\nX: ');
    const slowly = setInterval(() => drip.write('x'), 20);
    const begun = performance.now();
    await new Promise((resolve) => drip.once('close', resolve));
    clearInterval(slowly);
    expect(performance.now() - begun).toBeLessThan(2_000);
    const held = Array.from({ length: 200 }, () => say(url, 'GET /me'));
    await Promise.all(held);
    expect((await fetch(`${url}/metrics`)).status).toBe(200);
  });
});

it('a failure to count is told to whoever asks', async () => {
  const { url } = await served({ metrics: () => Promise.reject(new Error('no figure')) });
  const response = await fetch(`${url}/metrics`);
  expect([response.status, await response.text()]).toEqual([500, "The figures can't be had: no figure\n"]);
});

it('an address that is taken is told', async () => {
  const { url } = await served();
  await expect(served({ port: Number(new URL(url).port) })).rejects.toThrow(InputError);
});

it('closes what is open', async () => {
  const server = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    metrics: () => new Promise(() => {}),
    contentType: 'text/plain',
    isServing: () => true,
  });
  const held = say(server.url, 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n');
  await new Promise((resolve) => setTimeout(resolve, 20));
  await server.close();
  expect(await held).toBe('');
});
