import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import {
  attentionPlaces,
  byteSize,
  fingerprintHex,
  listenAddress,
  MOST_WORKERS,
  nodeMemory,
  pageOrigin,
  positiveIntegerOrAuto,
  shellQuote,
  workerCount,
} from './arguments.ts';

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
    expect(attentionPlaces('local,ws-listen://:8000')).toEqual([
      { type: 'local', workers: null },
      { type: 'listen', secure: false, host: '0.0.0.0', port: 8000 },
    ]);
    expect(attentionPlaces('wss-listen://[::1]')).toEqual([{ type: 'listen', secure: true, host: '::1', port: 7412 }]);
    const twice = 'ws-listen://a,ws-listen://b';
    for (const bad of [
      '',
      'local:0',
      'local,local',
      'http://a',
      'tcp://a,',
      twice,
      'ws-listen://',
      'ws-listen://a/b',
    ]) {
      expect(() => attentionPlaces(bad)).toThrow(InvalidArgumentError);
    }
  });

  it('bound workers', () => {
    expect(workerCount(String(MOST_WORKERS))).toBe(MOST_WORKERS);
    const message = `expected at most ${MOST_WORKERS} workers on this machine.`;
    expect(() => workerCount(String(MOST_WORKERS + 1))).toThrow(message);
    expect(() => attentionPlaces('local:99999')).toThrow(message);
  });

  it('read what a node needs', () => {
    expect(nodeMemory('1MiB')).toBe(2 ** 20);
    expect(() => nodeMemory('1')).toThrow('at least 1MiB');
    expect(fingerprintHex('AB'.repeat(32))).toBe('ab'.repeat(32));
    for (const bad of ['zz', '', 'ab', 'g'.repeat(64)]) expect(() => fingerprintHex(bad)).toThrow(InvalidArgumentError);
    expect(pageOrigin('*', pageOrigin('http://localhost:8080', undefined))).toEqual(['http://localhost:8080', '*']);
    for (const bad of ['x', 'https://a/', 'https://a/b', 'null', 'ftp://a', 'https://A']) {
      expect(() => pageOrigin(bad, undefined)).toThrow(InvalidArgumentError);
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
