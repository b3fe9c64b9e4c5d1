/** Lend links, as they are shown by a job and as somebody might forge them. */
import { InputError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { jobAddress, parseLendLink } from './lend-link.ts';

const page = 'http://192.168.1.5:7412/';

describe('parseLendLink', () => {
  it.each(['', '#', '#top', '#lending', '#lender&token=x', '#token=x&lend', '#see'])(
    '%j is not about lending',
    (hash) => {
      expect(parseLendLink(hash, page)).toBeNull();
    },
  );

  it('takes the page’s own origin where no job is named', () => {
    expect(parseLendLink('#lend&token=0123abcd', page)).toEqual({ url: 'ws://192.168.1.5:7412', token: '0123abcd' });
    expect(parseLendLink('#lend', 'https://a.example/page?x#lend')).toEqual({ url: 'wss://a.example', token: null });
    expect(parseLendLink('lend=&token=', page)).toEqual({ url: 'ws://192.168.1.5:7412', token: null });
  });

  it('takes another job’s address, escaped or not', () => {
    const expected = { url: 'ws://10.0.0.7:7412', token: 'a+b/c=' };
    expect(parseLendLink('#lend=ws://10.0.0.7:7412&token=a+b/c=', page)).toEqual(expected);
    expect(parseLendLink('#lend=ws%3A%2F%2F10.0.0.7%3A7412%2F&token=a%2Bb%2Fc%3D', page)).toEqual(expected);
    expect(parseLendLink('#lend=wss://[::1]:9/join', page)?.url).toBe('wss://[::1]:9/join');
  });

  it.each([
    ['#lend=javascript:alert(1)', 'BAD_ATTENTION_URL'],
    ['#lend=http://x', 'BAD_ATTENTION_URL'],
    ['#lend=//x', 'BAD_ATTENTION_URL'],
    ['#lend=tcp://x:1', 'BAD_LEND_LINK'],
    ['#lend=ws://user:secret@x:1', 'BAD_ATTENTION_URL'],
    ['#lend=ws://x:1/?a=b', 'BAD_LEND_LINK'],
    ['#lend=ws://x:1/%23a', 'BAD_LEND_LINK'],
    ['#lend=ws://x:1&token=a&token=b', 'BAD_LEND_LINK'],
    ['#lend&autostart=1', 'BAD_LEND_LINK'],
    ['#lend&token=a%0Ab', 'BAD_LEND_LINK'],
    [`#lend&token=${'x'.repeat(2000)}`, 'BAD_LEND_LINK'],
    [`#lend&token=${'x'.repeat(1 << 20)}`, 'BAD_LEND_LINK'],
  ])('%.40s is refused', (hash, code) => {
    expect(() => parseLendLink(hash, page)).toThrow(expect.objectContaining({ code }));
  });

  it('a page without an origin must name the job', () => {
    expect(() => parseLendLink('#lend&token=x', 'file:///page.html')).toThrow(InputError);
  });
});

describe('jobAddress', () => {
  it('a page from https reaches wss:// and this machine', () => {
    const secure = new URL('https://a.example/');
    expect(() => jobAddress('ws://10.0.0.7:1', secure)).toThrow(expect.objectContaining({ code: 'MIXED_CONTENT' }));
    expect(jobAddress(' ws://127.0.0.1:1 ', secure)).toBe('ws://127.0.0.1:1');
    expect(jobAddress('wss://10.0.0.7', secure)).toBe('wss://10.0.0.7');
  });
});
