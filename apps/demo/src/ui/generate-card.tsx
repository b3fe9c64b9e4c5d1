/** One prompt, or a batch of many. */
import type { Signal } from '@preact/signals';
import type { AppState } from '../state/app-state.ts';
import { askedName } from '../state/engine-state.ts';
import { BatchPanel } from './batch-panel.tsx';
import { PromptPanel } from './prompt-panel.tsx';
import { Tabs } from './tabs.tsx';

export function GenerateCard(props: {
  readonly app: AppState;
  readonly tab: Signal<string>;
  readonly batchText: Signal<string>;
}) {
  const { app, tab, batchText } = props;
  const { model } = app.engine.value;
  const again = askedName(app.engine.value);
  const without =
    again === null ? 'With the example, unless you load another model.' : `With ${again}, which is opened again.`;
  return (
    <section class="card generate-card" aria-labelledby="generate-heading">
      <h2 id="generate-heading">Generate</h2>
      <p class="note with">
        {model === null ? without : `With ${model.description.name}.`} <a href="#set-up">Model and tiers</a>
      </p>
      <Tabs
        label="What to generate"
        chosen={tab.value}
        onChoose={(key) => {
          tab.value = key;
        }}
        tabs={[
          { key: 'prompt', label: 'Prompt', panel: <PromptPanel app={app} /> },
          { key: 'batch', label: 'Batch', panel: <BatchPanel app={app} text={batchText} /> },
        ]}
      />
    </section>
  );
}
