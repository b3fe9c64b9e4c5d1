/** What is written around the timeline's canvas: a line over each row, and its figures as a table for who doesn't see it. */
import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { Figures } from './figures.ts';
import type { SampleLog } from './sample-log.ts';
import type { TimelineRow } from './timeline-rows.ts';
import { percent } from './timeline-summary.ts';
import type { Shown } from './timeline-view.ts';

export interface TimelineCaptionsProps {
  readonly shown: Shown | null;
  readonly figures: Figures | null;
  readonly oneTier: boolean;
  readonly nodeName: (node: number) => string;
}

export function TimelineCaptions({ shown, figures, oneTier, nodeName }: TimelineCaptionsProps) {
  if (shown === null) return null;
  return (
    <div class="see-captions">
      {shown.rows.map((row) => {
        const { name, figure } = captionOf(row, figures, oneTier, nodeName);
        return (
          <p
            key={`${row.kind}${row.node}`}
            class={`see-caption see-caption-${row.kind}`}
            style={{ top: `${row.labelTop}px` }}
          >
            <span>{name}</span>
            <b>{figure}</b>
          </p>
        );
      })}
      {shown.nodesLeftOut > 0 && <p class="see-left-out">and {shown.nodesLeftOut} more nodes, not drawn</p>}
    </div>
  );
}

function captionOf(
  row: TimelineRow,
  figures: Figures | null,
  oneTier: boolean,
  nodeName: (node: number) => string,
): { readonly name: string; readonly figure: string } {
  switch (row.kind) {
    case 'queue':
      return { name: 'Waiting for the dense tier', figure: '' };
    case 'dense':
      return { name: 'Dense tier', figure: figures === null ? '' : `busy ${percent(figures.denseShare)}` };
    case 'hiding': {
      if (oneTier) return { name: 'Attention’s turn: dense math stands still', figure: '' };
      const share = figures?.hiddenShare ?? null;
      return {
        name: 'Micro-batches away',
        figure: share === null ? '' : `${percent(share)} hidden, ${percent(1 - share)} exposed`,
      };
    }
    case 'node':
      return {
        name: oneTier ? 'Attention, in the same place' : `Attention · ${nodeName(row.node)}`,
        figure: figures === null ? '' : `computing ${percent(figures.nodeShares[row.node] ?? 0)}`,
      };
    default:
      return row.kind satisfies never;
  }
}

export interface TimelineTableProps {
  readonly log: SampleLog;
  readonly overMs: number;
  readonly nodeName: (node: number) => string;
}

const UPDATE_EVERY_MS = 1_000;

/** The last second's figures. Kept up to date only while it is open. */
export function TimelineTable({ log, overMs, nodeName }: TimelineTableProps) {
  const open = useSignal(false);
  const figures = useSignal<Figures | null>(null);
  useEffect(() => {
    if (!open.value) return;
    const update = () => {
      const newest = log.latest?.atMs;
      figures.value = newest === undefined ? null : log.figuresOver(newest - overMs, newest);
    };
    update();
    const timer = setInterval(update, UPDATE_EVERY_MS);
    return () => clearInterval(timer);
  }, [open.value, log, overMs]);
  const now = figures.value;
  const rows: readonly (readonly [string, string])[] =
    now === null
      ? []
      : [
          ['Tokens a second', String(Math.round(now.tokensPerSecond))],
          ['Micro-batches in flight', String(now.inFlight)],
          ['Rows of a micro-batch that write', now.decodeRows.toFixed(1)],
          ['Rows of a micro-batch that read', now.prefillRows.toFixed(1)],
          ['Preemptions a second', now.preemptionsPerSecond.toFixed(1)],
          ['Dense tier busy', percent(now.denseShare)],
          ...now.nodeShares.map((share, node) => [`${nodeName(node)} computing`, percent(share)] as const),
          ['Of the time away, hidden', now.hiddenShare === null ? 'nothing was away' : percent(now.hiddenShare)],
          ['Spans left out of the picture', String(log.droppedSpans)],
        ];
  return (
    <details
      class="see-details"
      onToggle={(event) => {
        open.value = event.currentTarget.open;
      }}
    >
      <summary>The last second in figures</summary>
      <table>
        <tbody>
          {rows.map(([name, value]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>{value}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length === 0 && <p>Nothing has run yet.</p>}
    </details>
  );
}
