import { InputError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { formatModelSource, modelId, nameOfSource, parseModelSource, readModelSource } from './model-source.ts';
import type { ModelSource } from './store-api.ts';

const hub = (repo: string, revision = 'main', file: string | null = null): ModelSource => ({
  kind: 'hub',
  repo,
  revision,
  file,
});

describe('parseModelSource', () => {
  const understood: readonly (readonly [string, ModelSource])[] = [
    ['  owner/name ', hub('owner/name')],
    ['owner/name@v1.0', hub('owner/name', 'v1.0')],
    ['owner/name:model.Q4_K_M.gguf', hub('owner/name', 'main', 'model.Q4_K_M.gguf')],
    ['owner/name@refs/pr/1:sub/x.gguf', hub('owner/name', 'refs/pr/1', 'sub/x.gguf')],
    ['hf://owner/name', hub('owner/name')],
    ['https://huggingface.co/owner/name', hub('owner/name')],
    ['huggingface.co/owner/name/', hub('owner/name')],
    ['https://hf.co/owner/name?library=x#card', hub('owner/name')],
    ['https://huggingface.co/owner/name/tree/dev', hub('owner/name', 'dev')],
    ['https://huggingface.co/owner/name/blob/main/x.gguf', hub('owner/name', 'main', 'x.gguf')],
    [
      'https://huggingface.co/owner/name/resolve/refs%2Fpr%2F1/a/x.gguf?download=true',
      hub('owner/name', 'refs/pr/1', 'a/x.gguf'),
    ],
    ['https://huggingface.co/owner/name/blob/main/model.safetensors', hub('owner/name')],
    ['https://example.org/m/x.gguf?sig=1#top', { kind: 'url', url: 'https://example.org/m/x.gguf?sig=1' }],
    ['http://127.0.0.1:8080/models/llama/', { kind: 'url', url: 'http://127.0.0.1:8080/models/llama/' }],
  ];
  for (const [text, source] of understood) {
    it(`takes ${text}`, () => {
      expect(parseModelSource(text)).toEqual(source);
      expect(parseModelSource(formatModelSource(source))).toEqual(source);
      expect(readModelSource(JSON.parse(JSON.stringify(source)))).toEqual(source);
      expect(nameOfSource(source)).not.toBe('');
    });
  }

  const refused: readonly (readonly [string, RegExp])[] = [
    ['', /no model is named/],
    ['x'.repeat(3000), /at most 2048 characters/],
    ['gpt2', /no owner.*owner\/name/],
    ['model.gguf', /without where it is/],
    ['a b/c', /neither/],
    ['owner/name/extra', /neither/],
    ['../name', /neither/],
    ['owner/name@../x', /no revision/],
    ['owner/name:config.json', /not a \.gguf/],
    ['owner/name:../../x.gguf', /no file/],
    ['ftp://example.org/x.gguf', /ftp:\/\//],
    ['file:///home/x.gguf', /file:\/\//],
    ['https://', /not a valid address/],
    ['https://user:secret@example.org/x.gguf', /user name or password/],
    ['https://example.org/model/config.json', /one file of a folder/],
    ['https://example.org/model', /ends neither/],
    ['https://huggingface.co/', /not the page of a model/],
    ['https://huggingface.co/datasets/owner/name', /datasets/],
    ['https://huggingface.co/owner/name/tree/main/sub', /folder inside/],
  ];
  for (const [text, message] of refused) {
    it(`refuses ${text.slice(0, 50)}`, () => {
      expect(() => parseModelSource(text)).toThrow(message);
      expect(() => parseModelSource(text)).toThrow(InputError);
    });
  }
});

it('gives different sources different ids', async () => {
  const sources = [
    hub('a/b'),
    hub('a/b', 'dev'),
    hub('a/b', 'main', 'x.gguf'),
    parseModelSource('https://e.org/x.gguf'),
  ];
  const ids = await Promise.all(sources.map(modelId));
  expect(new Set(ids).size).toBe(sources.length);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
});

it('takes nothing but sources from records', () => {
  for (const value of [
    null,
    1,
    {},
    { kind: 'url', url: 'javascript:1' },
    { kind: 'hub', repo: '../x', revision: 'main', file: null },
    { kind: 'hub', repo: 'a/b', revision: 1, file: null },
  ]) {
    expect(readModelSource(value)).toBeNull();
  }
});
