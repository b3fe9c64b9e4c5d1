/** Conversations out of runs. */
import { expect, test } from 'vitest';
import { chatPrompt, messagesOf, promptMode } from './conversation.ts';
import { beginRun, reduceRun } from './run-state.ts';
import { MODEL } from './state.fixture.ts';

test('the example is continued, other models with a template converse, and the visitor decides', () => {
  expect(promptMode(MODEL, true, null)).toBe('text');
  expect(promptMode(MODEL, false, null)).toBe('chat');
  expect(promptMode(MODEL, true, 'chat')).toBe('chat');
  expect(promptMode({ ...MODEL, hasChatTemplate: false }, false, 'chat')).toBe('text');
  expect(promptMode(null, false, null)).toBe('text');
});

test('each prompt has everything said before it', () => {
  const first = chatPrompt(null, '', 'Hello?');
  expect(first).toEqual({ kind: 'chat', messages: [{ role: 'user', content: 'Hello?' }] });
  const begun = beginRun(1, [first], 0);
  const run = reduceRun(begun, { type: 'tokens', run: 1, texts: [{ index: 0, text: 'Hi.', tokens: 2 }] }, 1);
  const second = chatPrompt(run, 'Be brief.', 'And now?');
  expect(second.kind === 'chat' && second.messages).toEqual([
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Hello?' },
    { role: 'assistant', content: 'Hi.' },
    { role: 'user', content: 'And now?' },
  ]);
  expect(messagesOf(begun)).toEqual([{ role: 'user', content: 'Hello?' }]);
});

test('a continued text is no part of a conversation', () => {
  expect(messagesOf(beginRun(1, [{ kind: 'text', text: 'Once' }], 0))).toEqual([]);
});
