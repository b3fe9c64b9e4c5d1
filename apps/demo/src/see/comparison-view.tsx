/** The comparison as it goes and what came of it: a bar of tokens a second for each setting, its figures, and one verdict. */
import type { ComparisonState, Measurement, Running } from './comparison.ts';
import { type Knobs, SETUP_NAMES, SETUPS, type Setup } from './experiment-settings.ts';
import { percent } from './timeline-summary.ts';
import { verdict } from './verdict.ts';

export function ComparisonView({ state, knobs }: { readonly state: ComparisonState; readonly knobs: Knobs }) {
  switch (state.phase) {
    case 'idle':
      return null;
    case 'running':
      return (
        <div class="see-comparison" role="status" aria-label="Comparison">
          <Bars results={state.results} current={state} />
          <p class="see-hint">{progressOf(state)}</p>
        </div>
      );
    case 'done': {
      const { headline, why } = verdict(state.results, knobs);
      return (
        <div class="see-comparison" role="status" aria-label="Comparison">
          <Bars results={state.results} current={null} />
          <p class="see-verdict">
            <b>{headline}</b> {why}
          </p>
        </div>
      );
    }
    case 'failed':
      return (
        <div class="see-comparison" role="alert">
          <Bars results={state.results} current={null} />
          <p class="see-fault">The comparison ended early: {state.reason}</p>
        </div>
      );
    case 'cancelled':
      return (
        <div class="see-comparison" role="status" aria-label="Comparison">
          {state.results.length > 0 && <Bars results={state.results} current={null} />}
          <p class="see-hint">The comparison was stopped.</p>
        </div>
      );
    default:
      return state satisfies never;
  }
}

function progressOf(state: Running): string {
  const trial = state.trials[state.trial];
  const name = trial === undefined ? '' : SETUP_NAMES[trial.setup];
  const stages = {
    stopping: 'making room',
    opening: 'opening the tiers',
    warming: 'warming up',
    measuring: 'measuring',
    ending: 'stopping',
  };
  return `${state.trial + 1} of ${state.trials.length}: ${name}, ${stages[state.stage]}…`;
}

function Bars({ results, current }: { readonly results: readonly Measurement[]; readonly current: Running | null }) {
  const most = Math.max(1, ...results.map(({ tokensPerSecond }) => tokensPerSecond));
  const now = current?.trials[current.trial]?.setup;
  return (
    <ul class="see-bars">
      {SETUPS.map((setup) => (
        <Bar
          key={setup}
          setup={setup}
          result={results.find((each) => each.setup === setup)}
          most={most}
          current={now === setup}
        />
      ))}
    </ul>
  );
}

function Bar(props: {
  readonly setup: Setup;
  readonly result: Measurement | undefined;
  readonly most: number;
  readonly current: boolean;
}) {
  const { setup, result, most, current } = props;
  const width = result === undefined ? 0 : (100 * result.tokensPerSecond) / most;
  return (
    <li class={`see-bar see-bar-${setup}${current ? ' see-bar-current' : ''}`}>
      <span class="see-bar-name">{SETUP_NAMES[setup]}</span>
      <span class="see-bar-track">
        <span class="see-bar-fill" style={{ width: `${width}%` }} />
      </span>
      <span class="see-bar-figure">
        {result === undefined ? '' : `${Math.round(result.tokensPerSecond).toLocaleString('en-US')} tokens/s`}
      </span>
      <span class="see-bar-notes">{result === undefined ? '' : notesOf(result)}</span>
    </li>
  );
}

function notesOf(result: Measurement): string {
  const { decodeRows, prefillRows, preemptionsPerSecond, running } = result;
  const notes = [
    `dense busy ${percent(result.denseShare)}, attention computing ${percent(result.attentionShare)}`,
    `${running < 10 ? running.toFixed(1) : Math.round(running)} stories at once`,
    `a dense call writes ${decodeRows.toFixed(1)} tokens and reads ${prefillRows.toFixed(1)}`,
    `${preemptionsPerSecond.toFixed(1)} preemptions/s`,
  ];
  if (!result.steady) notes.push('measured before it was steady');
  return notes.join('; ');
}
