/** What this is, in a sentence and a figure; and what this page may use of the machine. */
import type { SampleLog } from '../see/sample-log.ts';
import type { AppState } from '../state/app-state.ts';
import { plural } from '../state/format.ts';
import { TwoTiers } from './two-tiers.tsx';

export interface HeroProps {
  readonly app: AppState;
  readonly log: SampleLog;
  readonly otherTabs: number;
}

export function Hero({ app, log, otherTabs }: HeroProps) {
  return (
    <section class="hero" aria-label="What this is">
      <div class="hero-words">
        <p class="hero-line">A language model that thinks in one place and remembers in another.</p>
        <p class="hero-lead">
          The <strong class="is-dense">dense tier</strong> keeps the weights. The{' '}
          <strong class="is-attention">attention tier</strong> keeps all that was read and written. For each layer only
          q, k and v go out and one vector comes back; while they are away, the dense tier works on other text. Both run
          in this tab, and nothing leaves it unless you add a node elsewhere.
        </p>
      </div>
      <TwoTiers app={app} log={log} />
      <Machine app={app} otherTabs={otherTabs} />
    </section>
  );
}

function Machine({ app, otherTabs }: { readonly app: AppState; readonly otherTabs: number }) {
  const { capabilities, tiers } = app.engine.value;
  return (
    <ul class="machine" aria-label="What this page may use">
      <li>
        <strong>Shared memory: {crossOriginIsolated ? 'yes' : 'no'}.</strong>{' '}
        {crossOriginIsolated
          ? 'The page is cross-origin isolated, so workers pass tensors without copying them.'
          : `${isSecureContext ? 'The server did not send the COOP and COEP headers' : 'Browsers share memory only in pages that came by https, or from this machine'}; so tensors are copied between workers: the same answers, slower.`}
      </li>
      {capabilities !== null && (
        <li>
          {plural(capabilities.cores, 'core')}
          {capabilities.deviceMemoryGiB === null ? '' : `, at least ${capabilities.deviceMemoryGiB} GiB of memory`},{' '}
          {capabilities.gpuUnavailable === null ? gpuNames(capabilities.gpus) : 'no WebGPU'}.
        </li>
      )}
      {otherTabs > 0 && (
        <li class="is-warn">
          {plural(otherTabs, 'other tab')} of this page {otherTabs === 1 ? 'has' : 'have'} a model open. Each tab takes
          memory of its own, and they share the processor.
        </li>
      )}
      {tiers?.remarks.map((remark) => (
        <li key={remark}>{remark}</li>
      ))}
    </ul>
  );
}

function gpuNames(gpus: readonly { readonly name: string; readonly software: boolean }[]): string {
  return gpus.map(({ name, software }) => (software ? `${name} (software)` : name)).join(', ');
}
