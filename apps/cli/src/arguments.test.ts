import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import { attentionPlaces, byteSize, listenAddress, positiveIntegerOrAuto, shellQuote } from './arguments.ts';

describe('flag values', () => {
  it('read sizes', () => {
    expect(['4GiB', '4G', '1.5 kib', '2MB', '77'].map(byteSize)).toEqual([2 ** 32, 2 ** 32, 1536, 2e6, 77]);
    for (const bad of ['', '0', '-1', '4 apples', 'GiB', '1e9'])
      expect(() => byteSize(bad)).toThrow(InvalidArgumentError);
  });

  it('read addresses to listen at', () => {
    expect(listenAddress('127.0.0.1:80', 7411)).toEqual({ host: '127.0.0.1', port: 80 });
    expect(listenAddress('[::1]:0', 7411)).toEqual({ host: '::1', port: 0 });
    expect(listenAddress(':9', 7411)).toEqual({ host: '0.0.0.0', port: 9 });
    expect(listenAddress('localhost', 7411)).toEqual({ host: 'localhost', port: 7411 });
    for (const bad of ['', 'a:b', '::1', 'a:99999', 'a:1:2'])
      expect(() => listenAddress(bad, 1)).toThrow(InvalidArgumentError);
  });

  it('read places of attention', () => {
    expect(attentionPlaces('local:3, tcp://a:1')).toEqual([
      { type: 'local', workers: 3 },
      { type: 'remote', url: 'tcp://a:1' },
    ]);
    expect(attentionPlaces('local')).toEqual([{ type: 'local', workers: null }]);
    for (const bad of ['', 'local:0', 'local,local', 'http://a', 'tcp://a,']) {
      expect(() => attentionPlaces(bad)).toThrow(InvalidArgumentError);
    }
  });

  it('read counts', () => {
    expect([positiveIntegerOrAuto('auto'), positiveIntegerOrAuto('7')]).toEqual(['auto', 7]);
    for (const bad of ['0', '-1', '1.5', 'x', ''])
      expect(() => positiveIntegerOrAuto(bad)).toThrow(InvalidArgumentError);
  });

  it('are written as a shell reads them', () => {
    expect(shellQuote(['run', '--input', "it's here.jsonl", ''])).toBe("run --input 'it'\\''s here.jsonl' ''");
  });
});
