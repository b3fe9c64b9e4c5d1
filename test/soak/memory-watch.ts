/** Heap and resident memory of this process, sampled each second: whether they stay level while work goes on. */

export interface MemorySample {
  readonly heapBytes: number;
  readonly residentBytes: number;
}

export interface MemoryTrend {
  readonly name: string;
  /** Lower quartiles of the second tenth of all samples, and of the last one: between collections the heap is mostly garbage. */
  readonly early: number;
  readonly late: number;
  readonly isFlat: boolean;
}

/** Tenths of fewer samples have too few phases in them to be alike. */
const LEAST_SAMPLES = 600;
/** What collecting garbage moves from one tenth to another. */
const GROWTH_SHARE = 0.1;
const HEAP_GROWTH_BYTES = 16 << 20;
/** Each phase starts threads, and the C library keeps what theirs allocated: 217 MiB after 100 phases, 265 after 400, by steps. */
const RESIDENT_GROWTH_BYTES = 96 << 20;

export class MemoryWatch {
  readonly #samples: MemorySample[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor() {
    this.#timer = setInterval(() => this.#samples.push(sampleMemory()), 1000);
    this.#timer.unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  get seconds(): number {
    return this.#samples.length;
  }

  /** Null while there are too few samples. */
  trends(): readonly MemoryTrend[] | null {
    return this.#samples.length < LEAST_SAMPLES ? null : trendsOf(this.#samples);
  }
}

function sampleMemory(): MemorySample {
  const { heapUsed, rss } = process.memoryUsage();
  return { heapBytes: heapUsed, residentBytes: rss };
}

export function trendsOf(samples: readonly MemorySample[]): readonly MemoryTrend[] {
  const tenth = Math.floor(samples.length / 10);
  const early = samples.slice(tenth, 2 * tenth);
  const late = samples.slice(samples.length - tenth);
  const trend = (name: string, growth: number, of: (sample: MemorySample) => number): MemoryTrend => {
    const [before, after] = [lowQuartile(early.map(of)), lowQuartile(late.map(of))];
    return { name, early: before, late: after, isFlat: after <= before * (1 + GROWTH_SHARE) + growth };
  };
  return [
    trend('heap', HEAP_GROWTH_BYTES, ({ heapBytes }) => heapBytes),
    trend('resident', RESIDENT_GROWTH_BYTES, ({ residentBytes }) => residentBytes),
  ];
}

function lowQuartile(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 2] ?? 0;
}
