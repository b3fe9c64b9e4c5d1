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

/** Tenths of fewer samples say nothing. */
const LEAST_SAMPLES = 60;
/** What collection of garbage and freed pages move from one tenth to another. */
const GROWTH_SHARE = 0.1;
const GROWTH_BYTES = 24 << 20;

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

export function sampleMemory(): MemorySample {
  const { heapUsed, rss } = process.memoryUsage();
  return { heapBytes: heapUsed, residentBytes: rss };
}

export function trendsOf(samples: readonly MemorySample[]): readonly MemoryTrend[] {
  const tenth = Math.floor(samples.length / 10);
  const early = samples.slice(tenth, 2 * tenth);
  const late = samples.slice(samples.length - tenth);
  const trend = (name: string, of: (sample: MemorySample) => number): MemoryTrend => {
    const [before, after] = [lowQuartile(early.map(of)), lowQuartile(late.map(of))];
    return { name, early: before, late: after, isFlat: after <= before * (1 + GROWTH_SHARE) + GROWTH_BYTES };
  };
  return [trend('heap', ({ heapBytes }) => heapBytes), trend('resident', ({ residentBytes }) => residentBytes)];
}

function lowQuartile(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 2] ?? 0;
}
