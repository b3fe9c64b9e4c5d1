/** One prompt at a time: a conversation when the model has a template for it, else text to continue. */
import { useSignal } from '@preact/signals';
import { useId } from 'preact/hooks';
import type { Prompt } from '../engine/protocol.ts';
import type { AppState } from '../state/app-state.ts';
import { chatPrompt, type PromptMode, promptMode } from '../state/conversation.ts';
import { isExample } from '../state/engine-state.ts';
import { Segments } from './field.tsx';
import { Output } from './output.tsx';
import { SamplingPanel } from './sampling-panel.tsx';

const STORY_CHIPS = [
  'Once upon a time',
  'The little dragon wanted to',
  'One day, it started to rain. Tom',
  'Behind the old tree Anna found a secret door.',
] as const;
const CHAT_CHIPS = [
  'What is the capital of France?',
  'Explain photosynthesis in one sentence.',
  'Write a haiku about hawks.',
] as const;

export function PromptPanel({ app }: { readonly app: AppState }) {
  const typed = useSignal('');
  const system = useSignal('');
  const faults = useSignal<ReadonlyMap<string, string>>(new Map());
  const chosenMode = useSignal<PromptMode | null>(null);
  const engine = app.engine.value;
  const { phase } = engine;
  const example = isExample(engine);
  // After a failure a prompt opens what was open before.
  const model = engine.model ?? engine.asked?.model ?? null;
  const mode = promptMode(model, example, chosenMode.value);
  const run = app.run.value;
  const writing = run !== null && run.ended === null;
  const busy = writing || app.pending.value;
  const chips = mode === 'chat' && !example ? CHAT_CHIPS : STORY_CHIPS;

  function generate(text: string): void {
    if (text.trim() === '' || busy || faults.value.size > 0) return;
    const prompt: Prompt = mode === 'chat' ? chatPrompt(app.run.value, system.value, text) : { kind: 'text', text };
    app.generate(prompt);
    if (mode === 'chat') typed.value = '';
  }

  /** Nothing typed: the beginning that the empty box shows. */
  function send(): void {
    generate(typed.value === '' && mode === 'text' ? STORY_CHIPS[0] : typed.value);
  }

  return (
    <div class="prompt-panel">
      <form
        class="prompt-form"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        {model?.hasChatTemplate === true && (
          <Segments
            legend="Send as"
            value={mode}
            choices={[
              { value: 'chat', label: 'Chat' },
              { value: 'text', label: 'Text to continue' },
            ]}
            onChange={(value) => {
              chosenMode.value = value;
            }}
          />
        )}
        <PromptBox
          label={mode === 'chat' ? 'Message' : 'Prompt'}
          placeholder={mode === 'chat' ? 'Ask something' : STORY_CHIPS[0]}
          value={typed.value}
          onInput={(text) => {
            typed.value = text;
          }}
          onSend={send}
        />
        <ul class="chips" aria-label="Example prompts">
          {chips.map((chip) => (
            <li key={chip}>
              <button
                type="button"
                class="chip"
                disabled={busy || faults.value.size > 0}
                onClick={() => {
                  typed.value = chip;
                  generate(chip);
                }}
              >
                {chip}
              </button>
            </li>
          ))}
        </ul>
        <div class="actions">
          <button type="submit" class="primary" disabled={busy || phase === 'retiering' || faults.value.size > 0}>
            Generate
          </button>
          <button type="button" disabled={!busy} onClick={app.stopRun}>
            Stop
          </button>
          {mode === 'chat' && run !== null && (
            <button type="button" class="quiet" disabled={busy} onClick={app.forgetRun}>
              New conversation
            </button>
          )}
        </div>
      </form>
      {[...faults.value].map(([label, fault]) => (
        <p key={label} class="note is-warn" role="alert">
          {label} {fault}, before anything is generated.
        </p>
      ))}
      <SamplingPanel sampling={app.sampling} faults={faults} {...(mode === 'chat' ? { system } : {})} />
      <Output app={app} />
    </div>
  );
}

function PromptBox(props: {
  readonly label: string;
  readonly placeholder: string;
  readonly value: string;
  readonly onInput: (text: string) => void;
  readonly onSend: () => void;
}) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <textarea
        id={id}
        rows={2}
        placeholder={props.placeholder}
        value={props.value}
        aria-describedby={`${id}-keys`}
        onInput={({ currentTarget }) => props.onInput(currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          props.onSend();
        }}
      />
      <p id={`${id}-keys`} class="visually-hidden">
        Enter generates, Shift and Enter begin a new line.
      </p>
    </div>
  );
}
