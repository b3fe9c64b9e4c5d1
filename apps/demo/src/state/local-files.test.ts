/** What may be picked or dropped, and what is said of anything else. */
import { expect, test } from 'vitest';
import { bytesOf, localModel } from './local-files.ts';

const file = (path: string, bytes = 1) => ({ path, blob: new Blob(['x'.repeat(bytes)]) });

test('one .gguf is a model, whatever lies beside it', () => {
  const model = localModel([file('README.md'), file('dir/Model-Q4_0.GGUF', 5)]);
  expect(model).toMatchObject({ name: 'Model-Q4_0.GGUF', single: true });
  expect(bytesOf(model)).toBe(5);
});

test('a folder is the files beside its config.json, by their names', () => {
  const model = localModel([
    file('tale/config.json'),
    file('tale/model.safetensors', 7),
    file('tale/onnx/config.json'),
    file('tale/onnx/model.onnx'),
    file('other.txt'),
  ]);
  expect(model).toMatchObject({ name: 'tale', single: false });
  expect([...model.files.keys()]).toEqual(['config.json', 'model.safetensors']);
});

test('files picked without their folder are one, too', () => {
  const model = localModel([file('config.json'), file('model.safetensors')]);
  expect([...model.files.keys()]).toEqual(['config.json', 'model.safetensors']);
});

test.each([
  ['nothing', [], /no files at all/],
  ['pictures', ['a.png', 'b.png', 'c.png', 'd.png'], /a\.png, b\.png, c\.png and 1 more/],
  ['two GGUFs', ['a.gguf', 'b.gguf'], /2 \.gguf files/],
  ['a folder without weights', ['m/config.json', 'm/tokenizer.json'], /no \.safetensors/],
])('%s: says what is missing', (_, paths, message) => {
  expect(() => localModel(paths.map((path) => file(path)))).toThrow(message);
});
