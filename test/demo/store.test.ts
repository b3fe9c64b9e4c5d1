/** The model store against servers that cut, lie, change and refuse, in a real Chromium with a production build. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { exampleModel } from '../model-paths.ts';
import type { Misbehaviour } from './model-server.ts';
import {
  download,
  findChromium,
  ggufOf,
  HUB_TOKEN,
  inspect,
  list,
  readBack,
  type StoreRig,
  sha256,
  startStoreRig,
} from './store-rig.ts';

const executablePath = findChromium();
const weightsSha256 = sha256(readFileSync(join(exampleModel, 'model.safetensors')));
const TINY = '/tiny.gguf';

describe.skipIf(executablePath === null && !process.env.CI)('the model store', () => {
  let rig: StoreRig;
  let page: Page;
  beforeAll(async () => {
    if (executablePath === null) throw new Error('CI needs a Chromium: set GLINTHAWK_CHROMIUM to its path');
    rig = await startStoreRig(executablePath);
  });
  afterAll(() => rig?.close());
  afterEach(async () => {
    for (const path of [...misbehaving]) misbehave(path, null);
    await page?.context().close();
  });

  const misbehaving = new Set<string>();
  function misbehave(path: string, misbehaviour: Misbehaviour | null): void {
    rig.models.behave(path, misbehaviour);
    if (misbehaviour === null) misbehaving.delete(path);
    else misbehaving.add(path);
  }
  const tiny = () => ({ source: rig.models.url(TINY) });
  /** Of downloads: probes and headers ask for closed ranges. */
  const rangesAsked = (path: string) =>
    rig.models.requests.filter((seen) => seen.path === path && seen.range?.endsWith('-')).map(({ range }) => range);
  const forgetRequests = () => rig.models.requests.splice(0);

  it('looks at a folder, downloads it, and has it at the next visit', async () => {
    page = await rig.newPage();
    const wish = { source: rig.models.url('/tale/') };
    const { remote } = await inspect(page, wish);
    expect(remote).toMatchObject({ name: 'tale', obstacles: [], bytesHere: 0, choices: [] });
    expect(remote?.files.map(({ name }) => name)).toEqual([
      'config.json',
      'generation_config.json',
      'tokenizer.json',
      'tokenizer_config.json',
      'model.safetensors',
    ]);
    expect(remote?.parameters).toBeGreaterThan(500_000);
    expect(remote?.wasmWeightBytes).toBeGreaterThanOrEqual(4 * (remote?.parameters ?? 0));
    expect(remote?.quotaBytes).toBeGreaterThan(1e6);
    expect(await list(page)).toEqual({ stored: [], partial: [] });

    const { stored, failure, progress } = await download(page, wish);
    expect(failure).toBeNull();
    expect(progress.at(-1)).toMatchObject({
      bytesDone: remote?.bytes,
      bytesTotal: remote?.bytes,
      retrying: null,
      note: null,
    });
    const next = await rig.newPage(page.context());
    expect(await list(next)).toEqual({ stored: [stored], partial: [] });
    expect((await readBack(next, stored?.id ?? ''))['model.safetensors']).toBe(weightsSha256);
    // Nothing is fetched again.
    forgetRequests();
    expect((await download(next, wish)).stored).toEqual(stored);
    expect(rangesAsked('/tale/model.safetensors')).toEqual([]);
  });

  it('takes a model in several files, from a folder and from the hub', async () => {
    page = await rig.newPage();
    for (const wish of [
      { source: rig.models.url('/sharded/') },
      { source: 'glint/sharded', hubUrl: rig.models.origin, token: HUB_TOKEN },
    ]) {
      const { remote } = await inspect(page, wish);
      expect(remote?.obstacles).toEqual(['It has no tokenizer.json, so that it takes no text.']);
      expect(remote?.parameters).toBeGreaterThan(1000);
      const { stored, failure } = await download(page, wish);
      expect(failure).toBeNull();
      expect(stored?.files.map(({ name }) => name)).toEqual([
        'config.json',
        'model.safetensors.index.json',
        'model-00001-of-00002.safetensors',
        'model-00002-of-00002.safetensors',
      ]);
      await readBack(page, stored?.id ?? '');
    }
    expect((await list(page)).stored).toHaveLength(2);
  });

  it('goes on after a cut connection, asking for the rest only', async () => {
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { cutAfter: 1_000_000, cuts: 1 });
    forgetRequests();
    const { stored, progress } = await download(page, tiny(), remote ?? undefined);
    expect(stored?.files).toEqual([{ name: 'tiny.gguf', bytes: rig.gguf.byteLength, sha256: sha256(rig.gguf) }]);
    const [first, second, ...more] = rangesAsked(TINY);
    expect([first, more]).toEqual(['bytes=0-', []]);
    expect(Number(/\d+/.exec(second ?? '')?.[0])).toBeGreaterThan(100_000);
    expect(progress.some(({ retrying }) => retrying?.includes('cut'))).toBe(true);
    expect(progress.every(({ note }) => note === null)).toBe(true);
  });

  it('makes it through a server that cuts every answer, from the same origin with If-Range', async () => {
    page = await rig.newPage(undefined, rig.models.url('/page/index.html'));
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { cutAfter: 700_000 });
    forgetRequests();
    const { stored } = await download(page, tiny(), remote ?? undefined);
    expect(stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
    expect(rangesAsked(TINY).length).toBeGreaterThan(3);
    const later = rig.models.requests.filter(({ range }) => range?.endsWith('-') && range !== 'bytes=0-');
    expect(later.every(({ ifRange }) => ifRange?.startsWith('"'))).toBe(true);
  });

  it('gives up on a server that always stops at the same byte, keeps what is here, and finishes later', async () => {
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { endAt: 1_500_000 });
    const { failure } = await download(page, tiny(), remote ?? undefined);
    expect(failure).toMatchObject({ code: 'NETWORK_TRUNCATED' });
    expect(failure?.message).toMatch(/tiny\.gguf only to byte 1500000 of/);
    const { stored, partial } = await list(page);
    expect(stored).toEqual([]);
    expect(partial).toMatchObject([{ name: 'tiny.gguf', bytesHere: 1_500_000, bytes: rig.gguf.byteLength }]);
    misbehave(TINY, null);
    expect((await inspect(page, tiny())).remote?.bytesHere).toBe(1_500_000);
    expect((await download(page, tiny())).stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
  });

  it('goes on after Stop, and after the page was closed', async () => {
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { bytesPerSecond: 1_500_000 });
    const stopped = await download(page, { ...tiny(), stopAt: 500_000 }, remote ?? undefined);
    expect(stopped.failure).toMatchObject({ code: 'ABORTED' });
    const here = (await list(page)).partial[0]?.bytesHere ?? 0;
    expect(here).toBeGreaterThan(400_000);

    const closing = await rig.newPage(page.context());
    forgetRequests();
    const lost = download(closing, tiny(), remote ?? undefined).catch(() => 'closed');
    await closing.waitForTimeout(500);
    await closing.close();
    expect(await lost).toBe('closed');
    const after = (await list(page)).partial[0]?.bytesHere ?? 0;
    expect(after).toBeGreaterThan(here);

    misbehave(TINY, null);
    const { stored } = await download(page, tiny());
    expect(rangesAsked(TINY)).toEqual([`bytes=${here}-`, `bytes=${after}-`]);
    expect(stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
    expect(await list(page)).toEqual({ stored: [stored], partial: [] });
  });

  it('starts anew, and says so, where the server ignores ranges', async () => {
    page = await rig.newPage();
    misbehave(TINY, { ignoreRange: true, cutAfter: 1_000_000, cuts: 1 });
    const { remote } = await inspect(page, tiny());
    expect(remote).toMatchObject({ parameters: null, bytes: rig.gguf.byteLength });
    misbehave(TINY, { ignoreRange: true, cutAfter: 1_000_000, cuts: 1 });
    const { stored, progress } = await download(page, tiny(), remote ?? undefined);
    expect(stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
    expect(progress.at(-1)?.note).toMatch(/ignores Range/);
  });

  it('starts anew without a strong ETag, and where other sites may not read it', async () => {
    for (const misbehaviour of [{ etag: 'W/"weak"' }, { etag: null }, { hideHeaders: true }]) {
      page = await rig.newPage();
      misbehave(TINY, misbehaviour);
      const { remote } = await inspect(page, tiny());
      expect(remote).toMatchObject({ bytes: rig.gguf.byteLength, files: [{ etag: null }] });
      misbehave(TINY, { ...misbehaviour, cutAfter: 1_000_000, cuts: 1 });
      const { stored, progress } = await download(page, tiny(), remote ?? undefined);
      expect(stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
      expect(progress.at(-1)?.note).toMatch(/no strong ETag/);
    }
  });

  it('never mixes two versions of a file', async () => {
    const other = ggufOf(7);
    expect(other.byteLength).toBe(rig.gguf.byteLength);
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { bytesPerSecond: 5_000_000 });
    expect((await download(page, { ...tiny(), stopAt: 600_000 }, remote ?? undefined)).failure?.code).toBe('ABORTED');
    misbehave(TINY, { content: other });
    const { stored, progress } = await download(page, tiny());
    expect(stored?.files[0]?.sha256).toBe(sha256(other));
    expect(progress.at(-1)?.note).toMatch(/started anew/);
  });

  it('starts anew when the file changes between two requests of one download', async () => {
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    const content = ggufOf(5);
    misbehave(TINY, { content });
    const { stored, progress } = await download(page, tiny(), remote ?? undefined);
    expect(stored?.files[0]?.sha256).toBe(sha256(content));
    expect(progress.at(-1)?.note).toMatch(/changed on the server.*started anew/);
  });

  describe('refuses before anything is stored', () => {
    const refusals: readonly (readonly [string, Misbehaviour, string])[] = [
      ['a web page', { page: true }, 'MODEL_IS_A_PAGE'],
      ['a page that says it is a file', { content: Buffer.from('\n<!doctype html><p>Log in') }, 'MODEL_IS_A_PAGE'],
      [
        'an error as JSON',
        { content: Buffer.from('{"error":"quota exceeded for today, come back tomorrow"}') },
        'MODEL_GGUF',
      ],
      ['something else', { content: Buffer.alloc(5000, 7) }, 'MODEL_GGUF'],
      [
        'a senseless header',
        { content: Buffer.concat([Buffer.from('GGUF\x03\0\0\0'), Buffer.alloc(64, 0xff)]) },
        'MODEL_GGUF',
      ],
      ['an empty file', { content: Buffer.alloc(0) }, 'NETWORK_STATUS'],
    ];
    it('pages, errors, senseless headers and nothing at all', async () => {
      page = await rig.newPage();
      const { remote } = await inspect(page, tiny());
      for (const [what, misbehaviour, code] of refusals) {
        misbehave(TINY, misbehaviour);
        expect((await inspect(page, tiny())).failure, what).toMatchObject({ code });
        // Also when the server changes its mind between the look and the download.
        const { failure } = await download(page, tiny(), remote ?? undefined);
        expect(failure?.code, what).toMatch(/^(MODEL_|NETWORK_)/);
        expect(await list(page), what).toEqual({ stored: [], partial: [] });
      }
    });

    it('a file that was cut before it came to its server', async () => {
      page = await rig.newPage();
      misbehave(TINY, { truncateTo: 2_000_000 });
      const looked = await inspect(page, tiny());
      expect(looked.failure?.message).toMatch(/tiny\.gguf/);
      expect(looked.failure?.code).toMatch(/^MODEL_/);
      misbehave(TINY, { truncateTo: 2_000_000, ignoreRange: true });
      const { failure } = await download(page, tiny());
      expect(failure?.code).toMatch(/^MODEL_/);
      expect(await list(page)).toEqual({ stored: [], partial: [] });
    });

    it('configurations that are no JSON, and shards with paths for names', async () => {
      page = await rig.newPage();
      const folder = { source: rig.models.url('/tale/') };
      misbehave('/tale/config.json', { content: Buffer.from('model_type: llama') });
      expect((await inspect(page, folder)).failure).toMatchObject({ code: 'MODEL_JSON' });
      misbehave('/tale/config.json', null);
      misbehave('/tale/model.safetensors', { status: 404 });
      expect((await inspect(page, folder)).failure).toMatchObject({ code: 'MODEL_NOT_THERE' });
      for (const name of [
        '../../evil.safetensors',
        'a/b.safetensors',
        'x\u0000.safetensors',
        '.hidden.safetensors',
        'evil.js',
        7,
      ]) {
        misbehave('/tale/model.safetensors.index.json', {
          content: Buffer.from(JSON.stringify({ weight_map: { a: name } })),
        });
        expect((await inspect(page, folder)).failure?.code).toMatch(/MODEL_(FILE_NAME|INDEX)/);
      }
    });
  });

  it('says what a status means, and tries again where that helps', async () => {
    page = await rig.newPage();
    for (const [status, code] of [
      [403, 'NETWORK_FORBIDDEN'],
      [404, 'NETWORK_NOT_FOUND'],
      [429, 'NETWORK_TOO_MANY'],
      [500, 'NETWORK_STATUS'],
    ] as const) {
      misbehave(TINY, { status });
      expect((await inspect(page, tiny())).failure).toMatchObject({ code });
    }
    misbehave(TINY, null);
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { status: 404 });
    expect((await download(page, tiny(), remote ?? undefined)).failure).toMatchObject({ code: 'NETWORK_NOT_FOUND' });
    misbehave(TINY, { status: 500 });
    expect((await download(page, tiny(), remote ?? undefined)).failure).toMatchObject({ code: 'NETWORK_STATUS' });
    expect(await list(page)).toEqual({ stored: [], partial: [] });
    misbehave(TINY, { status: 429, retryAfterSeconds: 1, refusals: 1 });
    const { stored, progress } = await download(page, tiny(), remote ?? undefined);
    expect(stored?.bytes).toBe(rig.gguf.byteLength);
    expect(progress.some(({ retrying }) => retrying?.includes('429') && retrying.includes('1 s'))).toBe(true);
    const gone = await inspect(page, { source: 'http://127.0.0.1:9/x.gguf' });
    expect(gone.failure).toMatchObject({ code: 'NETWORK_UNREACHABLE' });
  });

  it('says how much room is missing, before and while storing', async () => {
    page = await rig.newPage();
    const { remote } = await inspect(page, tiny());
    const devtools = await page.context().newCDPSession(page);
    const quota = (quotaSize: number) =>
      devtools.send('Storage.overrideQuotaForOrigin', { origin: rig.site.origin, quotaSize });
    // Chromium tells pages a quota that it doesn't hold them to, so what it tells is put in its mouth.
    const narrow = await rig.newPage(page.context(), rig.models.url('/narrow/index.html'));
    const looked = await inspect(narrow, tiny());
    expect(looked.remote?.obstacles.join()).toMatch(
      /needs 2\.9\d MiB of storage, but this browser has .* left .* are missing/,
    );
    const early = await download(narrow, tiny(), remote ?? undefined);
    expect(early.failure).toMatchObject({ code: 'STORAGE_FULL' });
    expect(early.failure?.message).toMatch(/2\.\d+ MiB are missing/);
    expect(await list(narrow)).toEqual({ stored: [], partial: [] });

    misbehave(TINY, { bytesPerSecond: 2_000_000 });
    const going = download(page, tiny(), remote ?? undefined);
    await page.waitForTimeout(400);
    await quota(1_200_000);
    const { failure } = await going;
    expect(failure).toMatchObject({ code: 'STORAGE_FULL' });
    expect(failure?.message).toMatch(/full: .* [KM]iB of 2\.9\d MiB are still to come/);
    const [partial] = (await list(page)).partial;
    expect(partial?.bytesHere).toBeGreaterThan(100_000);
    await quota(50_000_000);
    misbehave(TINY, null);
    expect((await download(page, tiny())).stored?.files[0]?.sha256).toBe(sha256(rig.gguf));
  });

  it('reads the hub: files with checksums, choices, a token that goes nowhere else', async () => {
    page = await rig.newPage();
    const hub = { hubUrl: rig.models.origin, token: HUB_TOKEN };
    forgetRequests();
    const { stored, failure } = await download(page, { ...hub, source: 'glint/tale' });
    expect(failure).toBeNull();
    expect(stored).toMatchObject({
      name: 'glint/tale',
      source: { kind: 'hub', repo: 'glint/tale', revision: 'main', file: null },
    });
    expect((await readBack(page, stored?.id ?? ''))['model.safetensors']).toBe(weightsSha256);
    expect(rig.models.requests.some(({ authorization }) => authorization === `Bearer ${HUB_TOKEN}`)).toBe(true);

    const { remote } = await inspect(page, { ...hub, source: 'glint/quants' });
    expect(remote?.files).toEqual([]);
    expect(remote?.obstacles.join()).toMatch(/2 GGUF files: choose one/);
    expect(remote?.choices.map(({ name, bytes }) => [name, bytes])).toEqual(
      expect.arrayContaining([
        ['tiny-q4.gguf', rig.gguf.byteLength],
        ['more/tiny-q8.gguf', rig.gguf.byteLength],
      ]),
    );
    expect((await download(page, { ...hub, source: 'glint/quants' }, remote ?? undefined)).failure).toMatchObject({
      code: 'MODEL_AMBIGUOUS',
    });
    const chosen = await download(page, { ...hub, source: 'glint/quants', choose: 'more/tiny-q8.gguf' });
    expect(chosen.stored?.files[0]).toMatchObject({ name: 'tiny-q8.gguf', sha256: sha256(rig.gguf) });

    forgetRequests();
    await inspect(page, { ...hub, ...tiny(), hubUrl: 'http://localhost:1' });
    expect(rig.models.requests.every(({ authorization }) => authorization === null)).toBe(true);
  });

  it('names what is wrong with the hub, its lists and its files', async () => {
    page = await rig.newPage();
    const hub = { hubUrl: rig.models.origin, token: HUB_TOKEN };
    const code = async (source: string, token: string = HUB_TOKEN) =>
      (await inspect(page, { ...hub, token, source })).failure?.code;
    expect(await code('glint/tale', '')).toBe('NETWORK_FORBIDDEN');
    expect(await code('glint/tale', 'hf_wrong')).toBe('NETWORK_FORBIDDEN');
    expect(await code('glint/none')).toBe('NETWORK_NOT_FOUND');
    expect(await code('glint/quants:none.gguf')).toBe('MODEL_NOT_THERE');
    expect(await code('glint/quants:big-00001-of-00002.gguf')).toBe('UNSUPPORTED_GGUF');
    const listing = '/api/models/glint/odd/tree/main';
    const listed = async (content: string) => {
      misbehave(listing, { content: Buffer.from(content) });
      return code('glint/odd');
    };
    expect(await listed('<html>')).toBe('NETWORK_LISTING');
    expect(await listed('{"error":"x"}')).toBe('NETWORK_LISTING');
    expect(await listed('[null, 7, {"type":"file"}]')).toMatch(/NETWORK_LISTING|MODEL_NOT_THERE/);
    expect(
      await listed(
        JSON.stringify([
          { type: 'file', path: '../../x.gguf', size: 5 },
          { type: 'file', path: 'a\nb.gguf', size: 5 },
        ]),
      ),
    ).toBe('MODEL_NOT_THERE');
    expect(await listed(`["${'x'.repeat(10_000_000)}"]`)).toBe('NETWORK_TOO_LARGE');

    const damaged = Uint8Array.from(rig.gguf);
    damaged[2_000_000] ^= 1;
    misbehave('/glint/quants/resolve/main/tiny-q4.gguf', { content: damaged });
    const { failure } = await download(page, { ...hub, source: 'glint/quants:tiny-q4.gguf' });
    expect(failure).toMatchObject({ code: 'MODEL_CHECKSUM' });
    expect(await list(page)).toEqual({ stored: [], partial: [] });
  });

  it('fetches nothing again of a folder on the hub that is stored', async () => {
    page = await rig.newPage();
    const wish = { source: 'glint/tale', hubUrl: rig.models.origin, token: HUB_TOKEN };
    const { stored } = await download(page, wish);
    // A validator that changes says nothing where there is a checksum.
    misbehave('/glint/tale/resolve/main/model.safetensors', { etag: '"another"' });
    forgetRequests();
    const { remote } = await inspect(page, wish);
    expect(remote?.bytesHere).toBe(remote?.bytes);
    expect(await download(page, wish, remote ?? undefined)).toMatchObject({ stored, failure: null });
    const fetched = rig.models.requests.filter(({ method, range }) => method === 'GET' && range?.endsWith('-'));
    expect(fetched).toEqual([]);
  });

  it('keeps a stored model until its newer version is whole, and takes over what did not change', async () => {
    page = await rig.newPage();
    const wish = { source: rig.models.url('/tale/') };
    const { stored: old } = await download(page, wish);
    const before = await readBack(page, old?.id ?? '');
    const tokenizer = readFileSync(join(exampleModel, 'tokenizer.json'));
    const changed = Buffer.concat([tokenizer, Buffer.from('\n')]);

    misbehave('/tale/tokenizer.json', { content: changed, endAt: 1000 });
    forgetRequests();
    expect((await download(page, wish)).failure).toMatchObject({ code: 'NETWORK_TRUNCATED' });
    expect(await list(page)).toEqual({ stored: [old], partial: [] });
    expect(await readBack(page, old?.id ?? '')).toEqual(before);

    misbehave('/tale/tokenizer.json', { content: Buffer.from('{"error":"come back tomorrow"}') });
    expect((await download(page, wish)).failure).toMatchObject({ code: 'MODEL_IS_AN_ERROR' });
    expect(await readBack(page, old?.id ?? '')).toEqual(before);

    misbehave('/tale/tokenizer.json', { content: changed });
    const { stored, failure } = await download(page, wish);
    expect(failure).toBeNull();
    expect(rangesAsked('/tale/model.safetensors')).toEqual([]);
    expect(await readBack(page, stored?.id ?? '')).toEqual({ ...before, 'tokenizer.json': sha256(changed) });
    expect(await list(page)).toEqual({ stored: [stored], partial: [] });
    // And back again, into the first of the two places.
    misbehave('/tale/tokenizer.json', null);
    expect((await download(page, wish)).failure).toBeNull();
    expect(await readBack(page, old?.id ?? '')).toEqual(before);
    const files = await page.evaluate(async (id) => {
      const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models');
      const here = await (await models.getDirectoryHandle(id)).getDirectoryHandle('files');
      const names: string[] = [];
      for await (const name of here.keys()) names.push(name);
      return names.sort();
    }, old?.id ?? '');
    expect(files, 'nothing is left over').toEqual(Object.keys(before).sort());
  });

  it('tells of families that do not run here', async () => {
    page = await rig.newPage();
    misbehave('/tale/config.json', { content: Buffer.from(JSON.stringify({ model_type: 'mamba', hidden_size: 64 })) });
    const { remote } = await inspect(page, { source: rig.models.url('/tale/') });
    expect(remote?.parameters).toBeNull();
    expect(remote?.obstacles.join()).toMatch(/can't run it.*mamba/);
  });

  it('lets one tab at a time download, and no tab delete what another runs', async () => {
    page = await rig.newPage();
    const other = await rig.newPage(page.context());
    await other.evaluate(async () => {
      const store = await window.glinthawk.openModelStore();
      store.subscribe(() => document.body.append('changed '));
    });
    const { remote } = await inspect(page, tiny());
    misbehave(TINY, { bytesPerSecond: 4_000_000 });
    const going = download(page, tiny(), remote ?? undefined);
    await page.waitForTimeout(300);
    expect((await list(other)).partial).toHaveLength(1);
    const second = await download(other, tiny(), remote ?? undefined);
    expect(second.failure).toMatchObject({ code: 'MODEL_BUSY' });
    expect(second.failure?.message).toMatch(/being downloaded/);
    const { stored } = await going;
    await other.waitForFunction(() => document.body.textContent?.includes('changed'));

    const id = stored?.id ?? '';
    const remove = () =>
      page.evaluate(async (id) => {
        const store = await window.glinthawk.openModelStore();
        return store.remove(id).then(
          () => 'removed',
          (thrown: Error) => thrown.message,
        );
      }, id);
    await other.evaluate(async (id) => void (await window.glinthawk.openStoredFiles(id)), id);
    expect(await remove()).toMatch(/is open, here or in another tab/);
    await other.close();
    await expect.poll(remove).toBe('removed');
    expect(await list(page)).toEqual({ stored: [], partial: [] });
    const reopened = page.evaluate(async (id) => window.glinthawk.openStoredFiles(id), id);
    await expect(reopened).rejects.toThrow(/not stored in this browser/);
  });

  it('says why nothing can be stored where the page is not secure', async () => {
    page = await (await rig.browser.newContext()).newPage();
    await page.goto(`http://plain.test:${new URL(rig.site.origin).port}/`);
    await page.waitForFunction(() => 'glinthawk' in window);
    const why = await page.evaluate(async () => (await window.glinthawk.openModelStore()).unavailable);
    expect(why).toMatch(/https or from localhost.*files on disk/);
    expect((await inspect(page, tiny())).failure).toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await list(page)).toEqual({ stored: [], partial: [] });
  });
});
