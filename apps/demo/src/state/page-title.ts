/** The tab's title: how far things are, for a visitor who looks at another tab meanwhile. */
import { type BatchState, batchShare } from './batch-state.ts';
import { type RunState, tokensOf } from './run-state.ts';

const NAME = 'Glinthawk';

export function titleText(run: RunState | null, batch: BatchState | null): string {
  if (batch !== null && batch.ended === null) {
    const share = batchShare(batch);
    return share === null ? `Batch: ${NAME}` : `${Math.floor(share * 100)} % of the batch: ${NAME}`;
  }
  if (run !== null && run.ended === null) return `${tokensOf(run)} tokens: ${NAME}`;
  return NAME;
}
