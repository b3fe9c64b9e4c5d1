import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { findJsonFlaw, MAX_JSON_DEPTH } from './scan-json.ts';

describe('flaws of JSON', () => {
  it.each([
    ['{"a":1,"a":2}', 'a'],
    ['[{"a":1},{"b":{"c":1,"d":[1,{}],"c":2}}]', 'c'],
    ['{"a\\"b":1,"x":"\\\\","a\\u0022b":2}', 'a"b'],
    ['{"":1,"":2}', ''],
    ['{"x":[{"a":1}],"y":{"a":"a"},"x":0}', 'x'],
  ])('%s has a key twice', (text, key) => {
    JSON.parse(text);
    expect(findJsonFlaw(text)).toEqual({ type: 'duplicate', key });
  });

  it('are not seen where there are none', () => {
    for (const text of ['{"a":["a","a"],"b":"a","A":{"a":{"a":",\\"a\\":"}}}', '[{"a":1},{"a":1}]', '"a"', '1', '{}']) {
      JSON.parse(text);
      expect(findJsonFlaw(text)).toBeNull();
    }
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => findJsonFlaw(JSON.stringify(value, null, 1)) === null),
    );
  });

  it('has a depth', () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    expect(findJsonFlaw(nested(MAX_JSON_DEPTH))).toBeNull();
    expect(findJsonFlaw(nested(MAX_JSON_DEPTH + 1))).toEqual({ type: 'depth' });
  });
});
