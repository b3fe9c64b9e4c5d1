/**
 * The idea as a figure that is true at every moment: the dense tier with its weights, the attention tier with its KV, and what
 * crosses between them. Before anything is loaded it explains; then it shows the newest figures of the same log as the charts.
 */
import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { Figures } from '../see/figures.ts';
import type { SampleLog } from '../see/sample-log.ts';
import type { AppState } from '../state/app-state.ts';
import { denseName } from '../state/engine-state.ts';
import { formatBytes, formatParameters, plural } from '../state/format.ts';

export function TwoTiers({ app, log }: { readonly app: AppState; readonly log: SampleLog }) {
  const figures = useSignal<Figures | null>(null);
  useEffect(
    () =>
      log.subscribe(() => {
        figures.value = log.latest === null ? null : (log.series.at(-1)?.recent ?? null);
      }),
    [log],
  );
  const now = figures.value;
  return (
    <figure class={(now?.bytesOutPerSecond ?? 0) > 0 ? 'two-tiers moving' : 'two-tiers'} aria-label="The two tiers">
      <DenseSide app={app} busy={now?.denseShare ?? 0} />
      <Wires figures={now} oneTier={app.engine.value.tiers?.settings.mode === 'one-tier'} />
      <AttentionSide app={app} busy={now?.attentionShare ?? 0} />
    </figure>
  );
}

function DenseSide({ app, busy }: { readonly app: AppState; readonly busy: number }) {
  const { model, tiers } = app.engine.value;
  return (
    <div class="tier dense">
      <p class="tier-name">Dense tier</p>
      <p class="tier-figure">
        {model === null ? 'The weights' : `${formatParameters(model.description.parameters)} weights`}
      </p>
      <p class="tier-words">
        {tiers === null
          ? 'All matrix products. Reads every weight for every step, so it wants many rows at once.'
          : `${denseName(tiers.dense.kind)}, ${formatBytes(tiers.dense.weightBytes)} in ${tiers.dense.weightDtype}`}
      </p>
      <Busy share={busy} shown={tiers !== null} doing="busy" />
    </div>
  );
}

function AttentionSide({ app, busy }: { readonly app: AppState; readonly busy: number }) {
  const { tiers } = app.engine.value;
  const stats = app.sample.value?.stats;
  return (
    <div class="tier attention">
      <p class="tier-name">Attention tier</p>
      <p class="tier-figure">{tiers === null ? 'The memory' : `${formatBytes(stats?.kvBytes ?? 0)} held`}</p>
      <p class="tier-words">
        {tiers === null
          ? 'Keys and values of all text so far. Wants memory and its bandwidth, and CPUs have both.'
          : `Keys and values in ${tiers.settings.kvDtype} at ${plural(tiers.nodes.length, 'node')}, room for ${formatBytes(tiers.kvCapacityBytes)}`}
      </p>
      <Busy share={busy} shown={tiers !== null} doing="computing" />
    </div>
  );
}

function Busy(props: { readonly share: number; readonly shown: boolean; readonly doing: string }) {
  const { share, shown, doing } = props;
  const percent = Math.round(share * 100);
  return (
    <p class={shown ? 'busy' : 'busy hidden'}>
      <span class="busy-bar" aria-hidden="true">
        <span style={{ width: `${percent}%` }} />
      </span>
      {percent} % {doing}
    </p>
  );
}

function Wires({ figures, oneTier }: { readonly figures: Figures | null; readonly oneTier: boolean }) {
  const rate = (bytes: number): string => (bytes > 0 ? `${formatBytes(bytes)}/s` : '');
  return (
    <div class="wires">
      <p class="wire out">
        <span class="wire-name">q, k, v</span>
        <span class="wire-line" aria-hidden="true" />
        <span class="wire-rate">{rate(figures?.bytesOutPerSecond ?? 0)}</span>
      </p>
      <p class="wire back">
        <span class="wire-name">o</span>
        <span class="wire-line" aria-hidden="true" />
        <span class="wire-rate">{rate(figures?.bytesInPerSecond ?? 0)}</span>
      </p>
      {oneTier && <p class="wire-note">one tier: they take turns</p>}
    </div>
  );
}
