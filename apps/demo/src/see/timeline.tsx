/**
 * The live timeline: canvas, captions, zoom, pause, pan, and what a span is under the pointer or the arrow keys. The view lags a
 * quarter of a second behind the worker, so that a picture made of samples five times a second scrolls evenly. A frame is drawn
 * only when the timeline is on screen and something changed.
 */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { SpanField } from '../engine/span.ts';
import type { Figures } from './figures.ts';
import type { SampleLog } from './sample-log.ts';
import { describeSpan, extentIn, middle, neighbour } from './span-at.ts';
import { TimelineCaptions, TimelineTable } from './timeline-captions.tsx';
import type { TimelineRow } from './timeline-rows.ts';
import { describeTimeline } from './timeline-summary.ts';
import {
  FIRST_WINDOW_MS,
  gridStep,
  LONGEST_WINDOW_MS,
  SHORTEST_WINDOW_MS,
  type Shown,
  TimelineView,
} from './timeline-view.ts';

const CAPTIONS_EVERY_MS = 400;
const DESCRIBE_EVERY_MS = 3_000;
const TABLE_OVER_MS = 1_000;

export interface TimelineProps {
  readonly log: SampleLog;
  readonly oneTier: boolean;
  readonly nodeName: (node: number) => string;
}

interface Tip {
  readonly x: number;
  readonly y: number;
  readonly title: string;
  readonly lines: readonly string[];
  /** Chosen by keyboard: read aloud. */
  readonly spoken: boolean;
}

export function Timeline({ log, oneTier, nodeName }: TimelineProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const viewRef = useRef<TimelineView | null>(null);
  const chosen = useRef<{ row: number; number: number | null }>({ row: 1, number: null });
  const windowMs = useSignal(FIRST_WINDOW_MS);
  const paused = useSignal(false);
  const shown = useSignal<Shown | null>(null);
  const figures = useSignal<Figures | null>(null);
  const description = useSignal('Timeline of both tiers: nothing is running.');
  const tip = useSignal<Tip | null>(null);

  useEffect(() => {
    const element = canvas.current;
    if (element === null) return;
    const view = new TimelineView(element, log, {
      onShown: (now) => {
        shown.value = now;
      },
    });
    viewRef.current = view;
    return () => {
      viewRef.current = null;
      view.destroy();
    };
  }, [log]);

  useEffect(() => {
    let described = 0;
    const update = () => {
      if (document.hidden) return;
      const range = viewRef.current?.range();
      if (range == null) return;
      figures.value = log.figuresOver(range.from, range.to);
      const now = performance.now();
      if (now - described < DESCRIBE_EVERY_MS) return;
      described = now;
      const newest = log.latest?.atMs ?? range.to;
      const names = log.nodes.map((_, node) => nodeName(node));
      description.value = describeTimeline(log.figuresOver(newest - TABLE_OVER_MS, newest), oneTier, names);
    };
    update();
    const timer = setInterval(update, CAPTIONS_EVERY_MS);
    return () => clearInterval(timer);
  }, [log, oneTier, nodeName]);

  const zoom = (ms: number) => {
    windowMs.value = Math.min(LONGEST_WINDOW_MS, Math.max(SHORTEST_WINDOW_MS, ms));
    viewRef.current?.setWindow(windowMs.value);
  };
  const pause = (on: boolean) => {
    paused.value = on;
    viewRef.current?.setPaused(on);
    if (!on) tip.value = null;
  };

  const showSpan = (number: number, x: number, y: number, spoken: boolean) => {
    const { title, lines } = describeSpan(log.spans, number, nodeName);
    tip.value = { x, y, title, lines, spoken };
  };
  const choose = (row: TimelineRow, number: number | null) => {
    const view = viewRef.current;
    if (view === null) return;
    chosen.current.number = number;
    const extent = number === null ? null : extentIn(row, log.spans, number);
    if (number === null || extent === null) {
      tip.value = null;
      return;
    }
    view.reveal(middle(extent));
    showSpan(number, view.xOf(middle(extent)), row.top, true);
  };

  const onKey = (event: KeyboardEvent) => {
    const view = viewRef.current;
    if (view === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = view.rows.filter(({ kind }) => kind !== 'hiding');
    const row = rows[chosen.current.row % Math.max(1, rows.length)];
    const range = view.range();
    switch (event.key) {
      case ' ':
        pause(!paused.value);
        break;
      case '+':
      case '=':
        zoom(windowMs.value / 2);
        break;
      case '-':
        zoom(windowMs.value * 2);
        break;
      case 'ArrowLeft':
      case 'ArrowRight': {
        const direction = event.key === 'ArrowLeft' ? -1 : 1;
        pause(true);
        if (event.shiftKey) {
          view.pan((direction * windowMs.value) / 4);
          break;
        }
        if (row === undefined || range === null) break;
        const { number } = chosen.current;
        const extent = number === null || number < log.spans.first ? null : extentIn(row, log.spans, number);
        choose(
          row,
          neighbour(log.spans, row, extent === null ? (range.from + range.to) / 2 : middle(extent), direction),
        );
        break;
      }
      case 'ArrowUp':
      case 'ArrowDown': {
        pause(true);
        const step = event.key === 'ArrowUp' ? rows.length - 1 : 1;
        chosen.current.row = (chosen.current.row + step) % Math.max(1, rows.length);
        const next = rows[chosen.current.row];
        const { number } = chosen.current;
        const at =
          number === null ? ((range?.from ?? 0) + (range?.to ?? 0)) / 2 : log.spans.field(number, SpanField.began);
        if (next !== undefined) choose(next, neighbour(log.spans, next, at, -1));
        break;
      }
      case 'Escape':
        tip.value = null;
        break;
      default:
        return;
    }
    event.preventDefault();
  };

  const drag = useRef<number | null>(null);
  const onPointerMove = (event: PointerEvent) => {
    const view = viewRef.current;
    if (view === null) return;
    if (drag.current !== null && paused.value) {
      view.pan(-view.msOf(event.clientX - drag.current));
      drag.current = event.clientX;
      tip.value = null;
      return;
    }
    const hit = view.hit(event.clientX, event.clientY);
    if (hit === null) tip.value = null;
    else showSpan(hit.number, hit.x, hit.y, false);
  };

  return (
    <div class="see-timeline">
      <div class="see-timeline-bar">
        <button type="button" class="see-button" aria-pressed={paused.value} onClick={() => pause(!paused.value)}>
          {paused.value ? 'Go on' : 'Pause'}
        </button>
        <label class="see-zoom">
          <span>Window</span>
          <input
            type="range"
            min={0}
            max={4}
            step={1}
            value={Math.log2(LONGEST_WINDOW_MS / windowMs.value)}
            aria-valuetext={`${windowMs.value / 1000} seconds`}
            onInput={(event) => zoom(LONGEST_WINDOW_MS / 2 ** Number(event.currentTarget.value))}
          />
          <b aria-hidden="true">{windowMs.value / 1000} s</b>
        </label>
        <p class="see-hint">{paused.value ? 'Drag to look back; arrow keys go from span to span.' : ''}</p>
      </div>
      <section
        class="see-timeline-view"
        aria-label="Timeline. Space pauses, plus and minus zoom, arrow keys go through its spans."
        // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys move through the picture's spans
        tabIndex={0}
        onKeyDown={onKey}
        style={{ height: `${shown.value?.height ?? 200}px` }}
      >
        <canvas
          ref={canvas}
          role="img"
          aria-label={description.value}
          class={paused.value ? 'see-draggable' : ''}
          onPointerMove={onPointerMove}
          onPointerLeave={() => {
            if (tip.value?.spoken === false) tip.value = null;
          }}
          onPointerDown={(event) => {
            drag.current = event.clientX;
            if (paused.value) event.currentTarget.setPointerCapture(event.pointerId);
          }}
          onPointerUp={() => {
            drag.current = null;
          }}
          onPointerCancel={() => {
            drag.current = null;
          }}
        />
        <TimelineCaptions shown={shown.value} figures={figures.value} oneTier={oneTier} nodeName={nodeName} />
        {tip.value !== null && (
          <div
            class="see-tip"
            style={tipStyle(tip.value, shown.value?.width ?? 0)}
            aria-live={tip.value.spoken ? 'polite' : 'off'}
          >
            <strong>{tip.value.title}</strong>
            {tip.value.lines.map((line) => (
              <span key={line}>{line}</span>
            ))}
          </div>
        )}
      </section>
      <p class="see-key" aria-hidden="true">
        <span class="see-swatch see-swatch-waiting" /> waiting
        <span class="see-swatch see-swatch-working" /> computing
        <span class="see-swatch see-swatch-away" /> on its way
        {!oneTier && (
          <>
            <span class="see-swatch see-swatch-hidden" /> latency hidden
            <span class="see-swatch see-swatch-exposed" /> exposed
          </>
        )}
        <span class="see-key-note">a colour a micro-batch, a line each {gridStep(windowMs.value)} ms</span>
      </p>
      <TimelineTable log={log} overMs={TABLE_OVER_MS} nodeName={nodeName} />
    </div>
  );
}

const TIP_WIDTH = 280;

function tipStyle({ x, y }: Tip, width: number) {
  const left = Math.max(0, Math.min(x + 12, width - Math.min(TIP_WIDTH, width)));
  return { left: `${left}px`, top: `${y + 18}px` };
}
