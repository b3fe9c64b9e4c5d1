/**
 * Whether a process's memory stays level: a straight line through what it had at moments of rest, after garbage was collected, and how
 * steep that is. Its start is left out, while code is compiled and memory that is kept is taken for the first time. A line is judged only
 * where its points lie so near to it, over so long, that its slope is known; else that is said.
 */

export interface MemorySample {
  readonly atMs: number;
  /** JavaScript's objects and array buffers, after a collection. */
  readonly heapBytes: number;
  readonly residentBytes: number;
  /** Of WebAssembly memories, what was ever used; of what is open now. */
  readonly wasmBytes: number;
}

export interface MemoryTrend {
  readonly name: string;
  readonly samples: number;
  readonly minutes: number;
  /** On the line, at both ends. */
  readonly fromBytes: number;
  readonly toBytes: number;
  readonly bytesPerMinute: number;
  /** Standard error of the slope, of points as much alike their neighbours as these are. */
  readonly errorPerMinute: number;
  readonly verdict: 'level' | 'grows' | 'unknown';
}

/** A leak of 1 MiB a minute is twice as much. */
export const MOST_GROWTH = 0.5 * 2 ** 20;
/** Of the time, left out at the beginning, and at least so much. */
const WARM_UP_SHARE = 0.25;
const WARM_UP_MS = 60_000;
const LEAST_SAMPLES = 20;
/** Of what is judged: in less a memory that fills up once looks like a leak. */
const LEAST_MINUTES = 3;

export function trendsOf(samples: readonly MemorySample[]): readonly MemoryTrend[] {
  const [first] = samples;
  const last = samples.at(-1);
  if (first === undefined || last === undefined) return [];
  const begin = first.atMs + Math.max(WARM_UP_MS, WARM_UP_SHARE * (last.atMs - first.atMs));
  const warm = samples.filter(({ atMs }) => atMs >= begin);
  return [
    trendOf('JavaScript heap and buffers', warm, ({ heapBytes }) => heapBytes),
    trendOf('resident', warm, ({ residentBytes }) => residentBytes),
    trendOf('WebAssembly memory used', warm, ({ wasmBytes }) => wasmBytes),
  ];
}

function trendOf(
  name: string,
  samples: readonly MemorySample[],
  bytesOf: (sample: MemorySample) => number,
): MemoryTrend {
  const minutes = samples.map(({ atMs }) => atMs / 60_000);
  const bytes = samples.map(bytesOf);
  const { slope, error, at } = fitLine(minutes, bytes);
  const [from, to] = [minutes[0] ?? 0, minutes.at(-1) ?? 0];
  const isLong = samples.length >= LEAST_SAMPLES && to - from >= LEAST_MINUTES;
  return {
    name,
    samples: samples.length,
    minutes: to - from,
    fromBytes: at(from),
    toBytes: at(to),
    bytesPerMinute: slope,
    errorPerMinute: error,
    verdict: isLong ? verdictOn(slope, error) : 'unknown',
  };
}

function verdictOn(slope: number, error: number): MemoryTrend['verdict'] {
  if (slope > MOST_GROWTH && slope > 2 * error) return 'grows';
  return 2 * error <= MOST_GROWTH ? 'level' : 'unknown';
}

/** Least squares. */
function fitLine(x: readonly number[], y: readonly number[]) {
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const [meanX, meanY] = [mean(x), mean(y)];
  let [xx, xy] = [0, 0];
  for (const [i, value] of x.entries()) {
    xx += (value - meanX) ** 2;
    xy += (value - meanX) * ((y[i] as number) - meanY);
  }
  const slope = xx === 0 ? 0 : xy / xx;
  const at = (value: number) => meanY + slope * (value - meanX);
  const residuals = y.map((value, i) => value - at(x[i] as number));
  const squares = residuals.reduce((sum, residual) => sum + residual ** 2, 0);
  // Neighbours that are alike say less than as many independent points.
  const products = residuals.slice(1).reduce((sum, residual, i) => sum + residual * (residuals[i] as number), 0);
  const alike = squares === 0 ? 0 : Math.max(0, Math.min(0.98, products / squares));
  const variance = squares / Math.max(1, x.length - 2);
  const error = xx === 0 ? Number.POSITIVE_INFINITY : Math.sqrt((variance / xx) * ((1 + alike) / (1 - alike)));
  return { slope, error, at };
}

const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
const perMinute = (bytes: number) => (bytes / 2 ** 20).toFixed(3);

export function trendText({
  name,
  samples,
  minutes,
  fromBytes,
  toBytes,
  bytesPerMinute,
  errorPerMinute,
  verdict,
}: MemoryTrend): string {
  if (samples < 2) return `${name}: too few samples after the warm-up`;
  const line = `${name}: ${mib(fromBytes)} → ${mib(toBytes)} MiB by a line through ${samples} samples of ${minutes.toFixed(1)} min, ${perMinute(bytesPerMinute)} ± ${perMinute(errorPerMinute)} MiB a minute`;
  const bound = `${perMinute(MOST_GROWTH)}`;
  switch (verdict) {
    case 'level':
      return `${line}: level (at most ${bound})`;
    case 'grows':
      return `${line}: it GROWS (by more than ${bound})`;
    case 'unknown':
      return `${line}: can not be told (too few minutes, or too uneven)`;
    default:
      return verdict satisfies never;
  }
}
