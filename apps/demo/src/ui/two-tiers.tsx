/**
 * The idea as a figure that is true at every moment: the dense tier with its weights, the attention tier with its KV, and what
 * crosses between them. Before anything is loaded it explains; then it shows figures of the newest sample.
 */
import { useComputed, useSignal, useSignalEffect } from '@preact/signals';
import type { Sample } from '../engine/protocol.ts';
import type { AppState } from '../state/app-state.ts';
import { denseName } from '../state/engine-state.ts';
import { formatBytes, formatParameters, plural } from '../state/format.ts';
import { STILL, type TierFlow, tierFlow } from '../state/tier-flow.ts';

export function TwoTiers({ app }: { readonly app: AppState }) {
  const flow = useSignal<TierFlow>(STILL);
  const last = useSignal<Sample | null>(null);
  useSignalEffect(() => {
    const now = app.sample.value;
    flow.value = tierFlow(last.peek(), now);
    last.value = now;
  });
  const moving = useComputed(() => flow.value.outPerSecond > 0);
  return (
    <figure class={moving.value ? 'two-tiers moving' : 'two-tiers'} aria-label="The two tiers">
      <DenseSide app={app} busy={flow.value.denseBusy} />
      <Wires flow={flow.value} oneTier={app.engine.value.tiers?.settings.mode === 'one-tier'} />
      <AttentionSide app={app} busy={flow.value.attentionBusy} />
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
      <Busy share={busy} shown={tiers !== null} />
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
      <Busy share={busy} shown={tiers !== null} />
    </div>
  );
}

function Busy({ share, shown }: { readonly share: number; readonly shown: boolean }) {
  const percent = Math.round(share * 100);
  return (
    <p class={shown ? 'busy' : 'busy hidden'}>
      <span class="busy-bar" aria-hidden="true">
        <span style={{ width: `${percent}%` }} />
      </span>
      {percent} % busy
    </p>
  );
}

function Wires({ flow, oneTier }: { readonly flow: TierFlow; readonly oneTier: boolean }) {
  const rate = (bytes: number): string => (bytes > 0 ? `${formatBytes(bytes)}/s` : '');
  return (
    <div class="wires">
      <p class="wire out">
        <span class="wire-name">q, k, v</span>
        <span class="wire-line" aria-hidden="true" />
        <span class="wire-rate">{rate(flow.outPerSecond)}</span>
      </p>
      <p class="wire back">
        <span class="wire-name">o</span>
        <span class="wire-line" aria-hidden="true" />
        <span class="wire-rate">{rate(flow.inPerSecond)}</span>
      </p>
      {oneTier && <p class="wire-note">one tier: they take turns</p>}
    </div>
  );
}
