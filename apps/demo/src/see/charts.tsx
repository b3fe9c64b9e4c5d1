/**
 * The last minute as three charts: tokens a second, how busy the tiers are, bytes a second between them. uPlot draws; the charts
 * are made anew when the theme changes, since it takes colours once.
 */
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { formatBytes } from '../state/format.ts';
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
  value(point: SeriesPoint): number;
}

interface ChartSpec {
  readonly title: string;
  readonly unit: string;
  readonly curves: readonly Curve[];
  /** Top of the scale, given the largest value. */
  top(most: number): number;
  format(value: number): string;
}

const CHARTS: readonly ChartSpec[] = [
  {
    title: 'Throughput',
    unit: 'tokens/s',
    curves: [{ label: 'all sequences', colour: 'ink', filled: true, value: (point) => point.tokensPerSecond }],
    top: (most) => Math.max(10, most * 1.15),
    format: (value) => Math.round(value).toLocaleString('en-US'),
  },
  {
    title: 'How busy the tiers are',
    unit: '% of the time',
    curves: [
      { label: 'dense', colour: 'dense', filled: true, value: (point) => 100 * point.denseShare },
      { label: 'attention', colour: 'attention', dash: [6, 3], value: (point) => 100 * point.attentionShare },
    ],
    top: () => 100,
    format: (value) => `${Math.round(value)} %`,
  },
  {
    title: 'Between the tiers',
    unit: 'bytes/s',
    curves: [
      { label: 'q, k, v out', colour: 'wire', filled: true, value: (point) => point.bytesOutPerSecond },
      { label: 'o back', colour: 'attention', dash: [6, 3], value: (point) => point.bytesInPerSecond },
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
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    let plot = makePlot(element, spec, readTheme(element));
    let visible = true;
    let drawnMs = Number.NEGATIVE_INFINITY;
    let drawnVersion = -1;
    const draw = () => {
      const now = performance.now();
      if (!visible || document.hidden || log.version === drawnVersion || now - drawnMs < DRAW_EVERY_MS) return;
      drawnMs = now;
      drawnVersion = log.version;
      plot.setData(dataOf(log, spec));
    };
    const remake = () => {
      plot.destroy();
      plot = makePlot(element, spec, readTheme(element));
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
    <section class="see-chart" aria-label={`${spec.title}, ${spec.unit}, over the last minute`}>
      <h4>
        {spec.title} <span>{spec.unit}</span>
      </h4>
      <div ref={place} />
    </section>
  );
}

function dataOf(log: SampleLog, spec: ChartSpec): uPlot.AlignedData {
  const newest = log.series.at(-1)?.atMs ?? 0;
  const points = log.series.filter(({ atMs }) => newest - atMs <= SPAN_SECONDS * 1000);
  const x = points.map(({ atMs }) => (atMs - newest) / 1000);
  return [x, ...spec.curves.map((curve) => points.map((point) => curve.value(point)))];
}

function makePlot(element: HTMLElement, spec: ChartSpec, theme: Theme): uPlot {
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
    padding: [8, 6, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    legend: { show: true, live: true },
    scales: {
      x: { time: false, range: [-SPAN_SECONDS, 0] },
      y: { range: (_plot, _low, high) => [0, spec.top(Number.isFinite(high) ? high : 0)] },
    },
    axes: [
      { ...axis, size: 26, values: (_plot, values) => values.map((value) => (value === 0 ? 'now' : `${value} s`)) },
      { ...axis, size: 58, values: (_plot, values) => values.map((value) => spec.format(value)) },
    ],
    series: [
      { label: 'at', value: (_plot, value: number | null) => (value === null ? '' : `${value.toFixed(1)} s`) },
      ...spec.curves.map((curve) => ({
        label: curve.label,
        stroke: colours[curve.colour],
        width: 1.75,
        ...(curve.dash === undefined ? {} : { dash: [...curve.dash] }),
        ...(curve.filled === true ? { fill: translucent(colours[curve.colour]) } : {}),
        points: { show: false },
        value: (_plot: uPlot, value: number | null) => (value === null ? '' : spec.format(value)),
      })),
    ],
  };
  return new uPlot(options, [[], ...spec.curves.map(() => [])], element);
}

function translucent(colour: string): string {
  return `color-mix(in srgb, ${colour} 18%, transparent)`;
}
