/** Prompts that run only to be watched: how many are done, and a way to end them. */
import type { AppState } from '../state/app-state.ts';
import { formatCount, formatRate, plural } from '../state/format.ts';
import { tokensOf, tokensPerSecond } from '../state/run-state.ts';

export function LoadStrip({ app }: { readonly app: AppState }) {
  const load = app.load.value;
  if (load === null || load.ended !== null) return null;
  const done = load.answers.filter(({ ended }) => ended !== null).length;
  const rate = tokensPerSecond(load);
  return (
    <div class="load-strip">
      <p class="figures">
        {formatCount(done)} of {plural(load.prompts.length, 'prompt')} done, {formatCount(tokensOf(load))} tokens
        {rate === null ? '' : `, ${formatRate(rate)} tok/s`}
      </p>
      <button type="button" onClick={app.stopLoad}>
        Stop the load
      </button>
    </div>
  );
}
