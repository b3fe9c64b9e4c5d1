import { ModelFormatError } from '@glinthawk/core';
import { expect, it } from 'vitest';
import { checkFileName, fileNameOfUrl, isFileName, quoteHostile, shardsOfIndex } from './file-names.ts';

it('knows names that can be kept from those that go elsewhere', () => {
  for (const name of ['config.json', 'model-00001-of-00002.safetensors', 'SmolLM2.Q4_1.gguf'])
    expect(isFileName(name)).toBe(true);
  for (const name of [
    '',
    '.',
    '..',
    '.git',
    'a/b',
    'a\\b',
    'a..b',
    'a\0b',
    'a\nb',
    'ü.gguf',
    'a b',
    '-rf',
    'x'.repeat(201),
  ]) {
    expect(isFileName(name)).toBe(false);
    expect(() => checkFileName(name, 'the index')).toThrow(ModelFormatError);
  }
});

it('makes a name of any address', () => {
  const nameOf = (path: string) => fileNameOfUrl(new URL(path, 'https://example.org'));
  expect(nameOf('/a/SmolLM2.Q4_1.gguf')).toBe('SmolLM2.Q4_1.gguf');
  expect(nameOf('/a/my%20model%2F..%2Fx.gguf')).toBe('my_model___x.gguf');
  expect(nameOf('/%FF%.gguf')).toMatch(/^_.*\.gguf$/);
  expect(isFileName(nameOf(`/${'x'.repeat(500)}.gguf`))).toBe(true);
  expect(nameOf(`/${'x'.repeat(500)}.gguf`)).toMatch(/\.gguf$/);
});

it('reads the shards of an index, each once', () => {
  const map = { a: 'model-2.safetensors', b: 'model-1.safetensors', c: 'model-2.safetensors' };
  expect(shardsOfIndex(JSON.stringify({ weight_map: map }))).toEqual(['model-1.safetensors', 'model-2.safetensors']);
  for (const text of ['', '[]', '{}', '{"weight_map":[]}', '{"weight_map":{}}', '{"weight_map":{"a":"x.bin"}}']) {
    expect(() => shardsOfIndex(text)).toThrow(ModelFormatError);
  }
});

it('quotes what servers say shortly and visibly', () => {
  expect(quoteHostile(`\u0007${'x'.repeat(500)}`).length).toBeLessThan(100);
  expect(quoteHostile('a\nb')).toBe('"a\\nb"');
  expect(quoteHostile(undefined)).toBe('"undefined"');
});
