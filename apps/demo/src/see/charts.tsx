/**
 * The last minute as three charts: tokens a second, how busy the tiers are, bytes a second between them. uPlot draws; the charts
 * are made anew when the theme changes, since it takes colours once.
 */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { formatBytes } from '../state/format.ts';
import type { Figures } from './figures.ts';
import type { SampleLog, SeriesPoint } from './sample-log.ts';
import { readTheme, type Theme, type Token, watchTheme } from './theme.ts';

const SPAN_SECONDS = 60;
const HEIGHT = 150;
/** A chart is drawn less often than samples come: nobody reads faster. */
const DRAW_EVERY_MS = 380;

interface Curve {
  readonly label: string;
  readonly colour: Token;
  readonly dash?: readonly number[];
  readonly filled?: boolean;
  value(figures: Figures): number;
}

interface ChartSpec {
  readonly title: string;
  readonly unit: string;
  /** Width of the values beside the axis, CSS pixels. */
  readonly axis: number;
  readonly curves: readonly Curve[];
  /** Distances that lines of the grid may have; default: round decimal numbers. */
  readonly steps?: readonly number[];
  /** Top of the scale, given the largest value. */
  top(most: number): number;
  format(value: number): string;
}

/** Round numbers of bytes, as they are shown in KiB and MiB. */
const BINARY_STEPS: readonly number[] = Array.from({ length: 41 }, (_, i) => 2 ** i);

const CHARTS: readonly ChartSpec[] = [
  {
    title: 'Throughput',
    unit: 'tokens/s',
    axis: 46,
    curves: [{ label: 'all sequences', colour: 'ink', filled: true, value: (figures) => figures.tokensPerSecond }],
    top: (most) => Math.max(10, most * 1.15),
    format: (value) => Math.round(value).toLocaleString('en-US'),
  },
  {
    title: 'Busy tiers',
    unit: '% of the time',
    axis: 46,
    curves: [
      { label: 'dense', colour: 'dense', filled: true, value: (figures) => 100 * figures.denseShare },
      { label: 'attention', colour: 'attention', dash: [6, 3], value: (figures) => 100 * figures.attentionShare },
    ],
    top: () => 100,
    format: (value) => `${Math.round(value)} %`,
  },
  {
    title: 'Between the tiers',
    unit: 'bytes/s',
    axis: 74,
    steps: BINARY_STEPS,
    curves: [
      { label: 'q, k, v out', colour: 'wire', filled: true, value: (figures) => figures.bytesOutPerSecond },
      { label: 'o back', colour: 'attention', dash: [6, 3], value: (figures) => figures.bytesInPerSecond },
    ],
    top: (most) => Math.max(1024, most * 1.15),
    format: (value) => `${formatBytes(value)}/s`,
  },
];

export function Charts({ log }: { readonly log: SampleLog }) {
  return (
    <div class="see-charts">
      {CHARTS.map((spec) => (
        <Chart key={spec.title} log={log} spec={spec} />
      ))}
    </div>
  );
}

function Chart({ log, spec }: { readonly log: SampleLog; readonly spec: ChartSpec }) {
  const place = useRef<HTMLDivElement>(null);
  /** The newest values, or those under the pointer. */
  const values = useSignal<readonly (number | null)[]>([]);
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const onCursor = (plot: uPlot) => {
      const index = plot.cursor.idx ?? plot.data[0].length - 1;
      values.value = spec.curves.map((_, i) => plot.data[i + 1]?.[index] ?? null);
    };
    let plot = makePlot(element, spec, readTheme(element), onCursor);
    let visible = true;
    let drawnMs = Number.NEGATIVE_INFINITY;
    let drawnVersion = -1;
    const draw = () => {
      const now = performance.now();
      if (!visible || document.hidden || log.version === drawnVersion || now - drawnMs < DRAW_EVERY_MS) return;
      drawnMs = now;
      drawnVersion = log.version;
      plot.setData(dataOf(log.series, spec.curves));
      onCursor(plot);
    };
    const remake = () => {
      plot.destroy();
      plot = makePlot(element, spec, readTheme(element), onCursor);
      drawnVersion = -1;
      drawnMs = Number.NEGATIVE_INFINITY;
      draw();
    };
    const resize = new ResizeObserver(() =>
      plot.setSize({ width: Math.max(120, element.clientWidth), height: HEIGHT }),
    );
    resize.observe(element);
    const sight = new IntersectionObserver((entries) => {
      visible = entries.at(-1)?.isIntersecting ?? true;
      draw();
    });
    sight.observe(element);
    const undo = [log.subscribe(draw), watchTheme(remake)];
    draw();
    return () => {
      for (const each of undo) each();
      resize.disconnect();
      sight.disconnect();
      plot.destroy();
    };
  }, [log, spec]);
  return (
    <figure class="see-chart" aria-label={`${spec.title}, ${spec.unit}, over the last minute`}>
      <h4>
        {spec.title} <span>{spec.unit}</span>
      </h4>
      <div ref={place} />
      <ul class="see-legend">
        {spec.curves.map((curve, i) => {
          const value = values.value[i] ?? null;
          return (
            <li key={curve.label}>
              <i class={curve.dash === undefined ? '' : 'see-dashed'} style={{ color: `var(--${curve.colour})` }} />
              {curve.label} <b>{value === null ? '' : spec.format(value)}</b>
            </li>
          );
        })}
      </ul>
    </figure>
  );
}

function dataOf(series: readonly SeriesPoint[], curves: readonly Curve[]): uPlot.AlignedData {
  const newest = series.at(-1)?.atMs ?? 0;
  const first = Math.max(
    0,
    series.findIndex(({ atMs }) => newest - atMs <= SPAN_SECONDS * 1000),
  );
  const x = series.slice(first).map(({ atMs }) => (atMs - newest) / 1000);
  return [x, ...curves.map((curve) => series.slice(first).map(({ recent }) => curve.value(recent)))];
}

function makePlot(element: HTMLElement, spec: ChartSpec, theme: Theme, onCursor: (plot: uPlot) => void): uPlot {
  const { colours } = theme;
  const axis = {
    stroke: colours['ink-soft'],
    font: `11px ${theme.font}`,
    grid: { stroke: colours.line, width: 1 },
    ticks: { show: false },
  };
  const options: uPlot.Options = {
    width: Math.max(120, element.clientWidth),
    height: HEIGHT,
    padding: [8, 16, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    legend: { show: false },
    hooks: { setCursor: [onCursor] },
    scales: {
      x: { time: false, range: [-SPAN_SECONDS, 0] },
      y: { range: (_plot, _low, high) => [0, spec.top(Number.isFinite(high) ? high : 0)] },
    },
    axes: [
      { ...axis, size: 26, values: (_plot, values) => values.map((value) => (value === 0 ? 'now' : `${value} s`)) },
      {
        ...axis,
        size: spec.axis,
        values: (_plot, values) => values.map((value) => spec.format(value)),
        ...(spec.steps === undefined ? {} : { incrs: [...spec.steps] }),
      },
    ],
    series: [
      {},
      ...spec.curves.map((curve) => ({
        label: curve.label,
        stroke: colours[curve.colour],
        width: 1.75,
        ...(curve.dash === undefined ? {} : { dash: [...curve.dash] }),
        ...(curve.filled === true ? { fill: translucent(colours[curve.colour]) } : {}),
        points: { show: false },
      })),
    ],
  };
  return new uPlot(options, [[], ...spec.curves.map(() => [])], element);
}

function translucent(colour: string): string {
  return `color-mix(in srgb, ${colour} 18%, transparent)`;
}
