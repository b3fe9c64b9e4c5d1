/** A conversation out of the runs that made it: each prompt has all messages before it, so nothing else needs to be kept. */
import type { ChatMessage } from '@glinthawk/core';
import type { ModelReport, Prompt } from '../engine/protocol.ts';
import type { RunState } from './run-state.ts';

export type PromptMode = 'chat' | 'text';

/** Chat where the model has a template, but the example, which only continues stories. What the visitor chose goes first. */
export function promptMode(model: ModelReport | null, example: boolean, chosen: PromptMode | null): PromptMode {
  if (model?.hasChatTemplate !== true) return 'text';
  return chosen ?? (example ? 'text' : 'chat');
}

/** The conversation up to `text`, which the model shall answer. */
export function chatPrompt(last: RunState | null, system: string, text: string): Prompt {
  const before = messagesOf(last).filter(({ role }) => role !== 'system');
  const first: readonly ChatMessage[] = system.trim() === '' ? [] : [{ role: 'system', content: system }];
  return { kind: 'chat', messages: [...first, ...before, { role: 'user', content: text }] };
}

/** All that was said, the last answer included; empty when the last run was no chat. */
export function messagesOf(run: RunState | null): readonly ChatMessage[] {
  const [prompt] = run?.prompts ?? [];
  if (prompt?.kind !== 'chat') return [];
  const answer = run?.answers[0]?.text ?? '';
  return answer === '' ? prompt.messages : [...prompt.messages, { role: 'assistant', content: answer }];
}
