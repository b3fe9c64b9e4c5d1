/**
 * "See it work": the timeline, the KV map, the charts and the experiment, over a log that the page feeds with every event of the
 * engine worker. It sends nothing to the worker itself: the page does, by the callbacks. `onLoad` answers with the run's number
 * (null when nothing can run now), so that the stories of that run are told from the page's own prompts.
 */
import { type ReadonlySignal, useSignal } from '@preact/signals';
import { useCallback, useEffect, useMemo, useRef } from 'preact/hooks';
import './see.css';
import type { TierReport } from '../engine/protocol.ts';
import { Charts } from './charts.tsx';
import { type ActiveLoad, Experiment, type ExperimentPorts } from './experiment.ts';
import { ExperimentPanel } from './experiment-panel.tsx';
import { DEFAULT_KNOBS } from './experiment-settings.ts';
import { KvMap } from './kv-map.tsx';
import type { SampleLog } from './sample-log.ts';
import { StoryWall } from './story-wall.tsx';
import { Timeline } from './timeline.tsx';

export interface SeeItWorkProps extends ExperimentPorts {
  readonly log: SampleLog;
  /** null while nothing is open. */
  readonly tiers: ReadonlySignal<TierReport | null>;
  /** Something is being opened or run. */
  readonly busy: ReadonlySignal<boolean>;
  onLatency(ms: number): void;
  /** Opens the example model. */
  onOpen(): void;
}

export function SeeItWork({ log, tiers, busy, onRetier, onLatency, onLoad, onStop, onOpen }: SeeItWorkProps) {
  const ports = useRef<ExperimentPorts>({ onRetier, onLoad, onStop });
  ports.current = { onRetier, onLoad, onStop };
  const experiment = useMemo(
    () =>
      new Experiment(log, {
        onRetier: (settings) => ports.current.onRetier(settings),
        onLoad: (prompts, sampling) => ports.current.onLoad(prompts, sampling),
        onStop: () => ports.current.onStop(),
      }),
    [log],
  );
  useEffect(() => () => experiment.destroy(), [experiment]);

  const knobs = useSignal(DEFAULT_KNOBS);
  const ran = useHasRun(log);
  const report = tiers.value;
  const nodes = report?.nodes;
  const nodeName = useCallback((node: number) => nodes?.[node]?.name ?? `node ${node + 1}`, [nodes]);
  const latestLoad = useRef<ActiveLoad | null>(null);
  latestLoad.current = experiment.load.value ?? latestLoad.current;

  return (
    <div class="see">
      <ExperimentPanel
        experiment={experiment}
        tiers={report}
        busy={busy.value}
        knobs={knobs}
        onLatency={onLatency}
        onOpen={onOpen}
      />
      {!ran && (
        <p class="see-nothing">
          Here you will see each call of the dense tier and each visit of a micro-batch to the attention tier, the KV
          memory fill block by block, and tokens a second. Generate something, or write stories.
        </p>
      )}
      {ran && (
        <>
          <section aria-labelledby="see-timeline-heading">
            <h3 id="see-timeline-heading">Micro-batches on their way</h3>
            <Timeline log={log} oneTier={report?.settings.mode === 'one-tier'} nodeName={nodeName} />
          </section>
          <section aria-labelledby="see-kv-heading">
            <h3 id="see-kv-heading">KV memory</h3>
            <KvMap log={log} nodeName={nodeName} />
          </section>
          <section aria-labelledby="see-charts-heading">
            <h3 id="see-charts-heading">The last minute</h3>
            <Charts log={log} />
          </section>
        </>
      )}
      {latestLoad.current !== null && (
        <section aria-labelledby="see-stories-heading">
          <h3 id="see-stories-heading">Stories</h3>
          <StoryWall log={log} load={latestLoad.current} />
        </section>
      )}
    </div>
  );
}

/** Until something ran there is nothing to draw. */
function useHasRun(log: SampleLog): boolean {
  const ran = useSignal(false);
  useEffect(() => {
    const look = () => {
      if ((log.latest?.stats.steps ?? 0) > 0) ran.value = true;
    };
    look();
    return log.subscribe(look);
  }, [log]);
  return ran.value;
}
