/** What other machines say stays within its own line. */
import { expect, it } from 'vitest';
import { Screen } from './screen.ts';

it('words of others can neither move the cursor nor forge a line', () => {
  const parts: string[] = [];
  const write = (text: string) => parts.push(text) > 0;
  const logger = new Screen({ quiet: false, stream: { write } }).logger(true);
  logger.warn('a node left\r\nerror: all is lost', {
    reason: 'bye\n\u001b[2Jjoined     ws://1.2.3.4\u202e',
    more: 'a\rb',
  });
  logger.info('one\ntwo');
  logger.debug('three\u2028four');
  expect(parts.join('')).toBe(
    'warning: a node left␤error: all is lost (reason: bye␤?[2Jjoined     ws://1.2.3.4?, more: a?b)\n' +
      'one␤two\ndebug: three?four\n',
  );
});
