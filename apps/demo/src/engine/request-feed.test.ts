/** Nothing is lost and nothing comes twice, whenever an engine dies. */
import type { GenerationRequest } from '@glinthawk/engine';
import { describe, expect, it } from 'vitest';
import { RequestFeed } from './request-feed.ts';

const request = (id: string) => ({ id }) as GenerationRequest;
const ids = ['a', 'b', 'c', 'd'];

/** What an engine gets that pulls `count` requests. */
async function pull(iterator: Iterator<GenerationRequest>, count: number): Promise<readonly string[]> {
  const got: string[] = [];
  while (got.length < count) {
    const result = await iterator.next();
    if (result.done) break;
    got.push(result.value.id);
  }
  return got;
}

async function* later(): AsyncGenerator<GenerationRequest> {
  for (const id of ids) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    yield request(id);
  }
}

describe('RequestFeed', () => {
  it('gives what comes at once at once', () => {
    const iterator = new RequestFeed(ids.map(request)).requests()[Symbol.iterator]();
    expect(iterator.next()).toEqual({ done: false, value: request('a') });
  });

  it('gives the next engine what the first did not finish, then the rest', async () => {
    const feed = new RequestFeed(later());
    expect(await pull(feed.requests()[Symbol.iterator](), 3)).toEqual(['a', 'b', 'c']);
    feed.finished('b');
    expect(feed.unfinished).toEqual(['a', 'c']);
    expect(await pull(feed.requests()[Symbol.iterator](), 9)).toEqual(['a', 'c', 'd']);
  });

  it('keeps what was being pulled when the engine died', async () => {
    const feed = new RequestFeed(later());
    const first = feed.requests()[Symbol.iterator]();
    const dropped = first.next();
    const second = feed.requests()[Symbol.iterator]();
    const got = pull(second, 9);
    await dropped;
    expect(await got).toEqual(ids);
    expect((await first.next()).done).toBe(true);
  });

  it('knows when the source is at fault', async () => {
    const feed = new RequestFeed(
      (async function* () {
        yield request('a');
        throw new Error('unreadable');
      })(),
    );
    const iterator = feed.requests()[Symbol.iterator]();
    await pull(iterator, 1);
    await expect(pull(iterator, 1)).rejects.toThrow('unreadable');
    expect(feed.failure).not.toBeNull();
  });

  it('closes its source', async () => {
    let closed = false;
    const feed = new RequestFeed(
      (function* () {
        try {
          yield* ids.map(request);
        } finally {
          closed = true;
        }
      })(),
    );
    await pull(feed.requests()[Symbol.iterator](), 1);
    await feed.close();
    expect(closed).toBe(true);
  });
});
