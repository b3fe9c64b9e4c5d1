import { expect, it } from 'vitest';
import { writeGguf } from '../../../../packages/model/testing/gguf-writer.ts';
import { writeSafetensors } from '../../../../packages/model/testing/safetensors-writer.ts';
import { tinyGgufMetadata, tinyGgufTensors, tinyTensors } from '../../../../packages/model/testing/tiny-model.ts';
import { checkHead, checkJson, HEAD_BYTES, refusePage } from './file-checks.ts';

const text = (content: string) => new TextEncoder().encode(content);
const check =
  (name: string, content: Uint8Array, bytes = content.byteLength) =>
  () =>
    checkHead(name, content.subarray(0, HEAD_BYTES), bytes);

it('lets the real thing through', () => {
  expect(check('x.gguf', writeGguf(tinyGgufMetadata(), tinyGgufTensors()))).not.toThrow();
  expect(check('model.safetensors', writeSafetensors(tinyTensors()))).not.toThrow();
  expect(check('config.json', text('\ufeff {"a":1}'))).not.toThrow();
  expect(check('chat_template.jinja', text('<|im_start|>{{ x }}'))).not.toThrow();
});

it('refuses pages, whatever they are called, and types of pages', () => {
  for (const page of ['<!DOCTYPE html>', ' \n<html lang=en>', '<?xml version="1.0"?><Error>', '<!-- x -->']) {
    for (const name of ['x.gguf', 'model.safetensors', 'config.json', 'chat_template.jinja']) {
      expect(check(name, text(page))).toThrow(/web page/);
    }
  }
  expect(() => refusePage('x.gguf', 'text/html; charset=utf-8', text('GGUF'))).toThrow(/web page/);
  expect(() => refusePage('x.gguf', 'application/octet-stream', text('GGUF'))).not.toThrow();
});

it('refuses headers that cannot be', () => {
  const gguf = writeGguf(tinyGgufMetadata(), tinyGgufTensors());
  gguf.set([0xff, 0xff, 0xff, 0xff], 12);
  expect(check('x.gguf', gguf)).toThrow(/makes no sense/);
  expect(check('x.gguf', text('GGU'))).toThrow(/not a GGUF/);
  expect(check('model.safetensors', writeSafetensors(tinyTensors()), 100)).toThrow(/not a safetensors file/);
  expect(check('model.safetensors', new Uint8Array(100))).toThrow(/not a safetensors file/);
  expect(check('config.json', text('version https://git-lfs'))).toThrow(/not JSON/);
});

it('knows an excuse from a configuration', () => {
  expect(() => checkJson('config.json', '{"model_type":"llama","error":1}')).not.toThrow();
  expect(() => checkJson('config.json', '{"error":"gated","message":"x"}')).toThrow(/sent an error/);
  expect(() => checkJson('config.json', '[1]')).toThrow(/JSON object/);
  expect(() => checkJson('config.json', '{')).toThrow(/not valid JSON/);
});
