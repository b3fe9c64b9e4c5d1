/** What the model writes, as it writes it; how many tokens, and how fast. */
import type { AppState } from '../state/app-state.ts';
import { messagesOf } from '../state/conversation.ts';
import { formatCount, formatRate } from '../state/format.ts';
import { type AnswerState, type RunState, tokensPerSecond } from '../state/run-state.ts';
import { CopyButton } from './copy-button.tsx';
import { StreamingText } from './streaming-text.tsx';

export function Output({ app }: { readonly app: AppState }) {
  const run = app.run.value;
  const answer = run?.answers[0] ?? null;
  const writing = run !== null && run.ended === null;
  return (
    <div class="output">
      {/* Announced once it is finished, below: a reader of the screen would else be interrupted at every token. */}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard. */}
      <div role="log" aria-label="Output" aria-live="off" aria-busy={writing} tabIndex={0} class="output-text">
        {run === null || answer === null ? (
          <p class="output-empty">
            {app.pending.value
              ? 'Loading the model; its answer comes right after.'
              : 'What the model writes appears here.'}
          </p>
        ) : (
          <Exchange run={run} answer={answer} writing={writing} />
        )}
      </div>
      <div class="output-foot">
        <p class="figures">{run === null ? '' : <Figures run={run} />}</p>
        {run !== null && answer !== null && <CopyButton label="Copy" text={() => textOf(run, answer)} />}
      </div>
      <p class="visually-hidden" aria-live="polite">
        {run?.ended == null || answer === null ? '' : announcement(run, answer)}
      </p>
    </div>
  );
}

function Exchange(props: { readonly run: RunState; readonly answer: AnswerState; readonly writing: boolean }) {
  const { run, answer, writing } = props;
  const [prompt] = run.prompts;
  const text = <StreamingText key={run.run} text={answer.text} epoch={answer.epoch} />;
  if (prompt?.kind !== 'chat')
    return (
      <p class={writing ? 'story writing' : 'story'}>
        <span class="given">{prompt?.text}</span>
        {text}
      </p>
    );
  return (
    <>
      {prompt.messages.map(({ role, content }, i) => (
        <p key={i} class={`turn ${role}`}>
          <span class="who">{WHO[role] ?? role}</span>
          {content}
        </p>
      ))}
      <p class={writing ? 'turn assistant writing' : 'turn assistant'}>
        <span class="who">{WHO.assistant}</span>
        {text}
      </p>
    </>
  );
}

const WHO: Readonly<Record<string, string>> = { system: 'System', user: 'You', assistant: 'Model' };

function Figures({ run }: { readonly run: RunState }) {
  const rate = tokensPerSecond(run);
  const [answer] = run.answers;
  return (
    <>
      <strong>{formatCount(answer?.tokens ?? 0)}</strong> {answer?.tokens === 1 ? 'token' : 'tokens'}
      {rate === null ? '' : `, ${formatRate(rate)} tok/s`}
      {endText(run, answer)}
    </>
  );
}

function endText(run: RunState, answer: AnswerState | undefined): string {
  if (run.ended === null) return '';
  if (run.ended.how === 'stopped') return ', stopped';
  if (run.ended.how === 'failed' || (answer?.ended != null && 'error' in answer.ended)) return ', failed';
  return answer?.ended != null && answer.ended.reason === 'length' ? ', at its length limit' : ', finished';
}

function announcement(run: RunState, answer: AnswerState): string {
  const end = endText(run, answer).replace(/^, /, '');
  const [prompt] = run.prompts;
  return `${end.charAt(0).toUpperCase()}${end.slice(1)}. ${prompt?.kind === 'text' ? prompt.text : ''}${answer.text}`;
}

function textOf(run: RunState, answer: AnswerState): string {
  const [prompt] = run.prompts;
  if (prompt?.kind === 'text') return prompt.text + answer.text;
  return messagesOf(run)
    .map(({ role, content }) => `${WHO[role] ?? role}: ${content}`)
    .join('\n\n');
}
