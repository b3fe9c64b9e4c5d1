/**
 * A micro-batch of the `wasm` backend. The caller's thread looks up embeddings and rotation angles and merges what the workers
 * found in their parts of the vocabulary; everything else is a stage of the workers.
 */
import { fillRopeTable, InputError, type ModelConfig, type RopeFrequencies } from '@glinthawk/core';
import { type DenseBatch, type DenseStep, HEAD_CANDIDATES, type HeadRow } from '../backend.ts';
import { type BatchMemory, type StageName, transferList } from './batch-memory.ts';
import { logSumExp, mergeCandidates, PANEL_SUMS } from './candidates.ts';
import type { WorkerPool } from './worker-pool.ts';

export interface BatchOwner {
  readonly config: ModelConfig;
  readonly frequencies: RopeFrequencies;
  readonly embeddings: Float32Array; // [vocab, hidden]
  readonly pool: WorkerPool;
  release(batch: number): void;
}

export class WasmBatch implements DenseBatch {
  readonly maxRows: number;
  readonly qkv: Float32Array; // [maxRows, (heads + 2 kvHeads) headDim]
  readonly attended: Float32Array; // [maxRows, heads · headDim]
  readonly #id: number;
  readonly #owner: BatchOwner;
  readonly #memory: BatchMemory;
  #rows = 0;
  #headRows = 0;
  #busy = false;
  #destroyed = false;

  constructor(id: number, owner: BatchOwner, memory: BatchMemory) {
    this.#id = id;
    this.#owner = owner;
    this.#memory = memory;
    this.maxRows = memory.shape.maxRows;
    this.qkv = memory.qkv;
    this.attended = memory.attended;
  }

  async begin(step: DenseStep): Promise<void> {
    this.#check(step);
    const { config, embeddings, frequencies } = this.#owner;
    const { hiddenSize } = config;
    const memory = this.#memory;
    this.#rows = step.tokenIds.length;
    this.#headRows = step.headRows.length;
    for (const [row, id] of step.tokenIds.entries()) {
      memory.residual.set(embeddings.subarray(id * hiddenSize, (id + 1) * hiddenSize), row * hiddenSize);
    }
    fillRopeTable(frequencies, step.positions, memory.rope);
    memory.headRows.set(step.headRows);
    memory.inverseTemperatures.set(step.inverseTemperatures);
    await this.#run('begin', -1);
  }

  async advance(layer: number): Promise<void> {
    const { layers } = this.#owner.config;
    if (!(layer >= 0 && layer < layers - 1)) throw new RangeError(`advance(${layer}) in a model of ${layers} layers`);
    await this.#run('advance', layer);
  }

  async finish(): Promise<readonly HeadRow[]> {
    await this.#run('finish', this.#owner.config.layers - 1);
    const { candidateCounts, candidateIds, candidateLogits, panels, panelSums, inverseTemperatures } = this.#memory;
    const workers = this.#owner.pool.size;
    const rows: HeadRow[] = [];
    for (let row = 0; row < this.#headRows; row++) {
      const first = row * workers;
      const inverseTemperature = inverseTemperatures[row] as number;
      const sumsAt = row * panels * PANEL_SUMS;
      rows.push({
        ...mergeCandidates(
          candidateIds,
          candidateLogits,
          first * HEAD_CANDIDATES,
          HEAD_CANDIDATES,
          candidateCounts.subarray(first, first + workers),
          HEAD_CANDIDATES,
        ),
        logSumExp: logSumExp(panelSums, sumsAt, panels, inverseTemperature, 'plain'),
        scaledLogSumExp: logSumExp(panelSums, sumsAt, panels, inverseTemperature, 'scaled'),
      });
    }
    return rows;
  }

  async logits(index: number): Promise<Float32Array> {
    const { vocabSize } = this.#owner.config;
    if (!(index >= 0 && index < this.#headRows)) {
      throw new RangeError(`logits(${index}) of a step with ${this.#headRows} head rows`);
    }
    return this.#memory.logits.slice(index * vocabSize, (index + 1) * vocabSize);
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#owner.pool.notify({ type: 'close', batch: this.#id });
    this.#owner.release(this.#id);
  }

  async #run(stage: StageName, layer: number): Promise<void> {
    if (this.#busy || this.#destroyed) {
      throw new Error(`${stage} on a micro-batch ${this.#destroyed ? 'that was destroyed' : 'with a call under way'}`);
    }
    this.#busy = true;
    try {
      const { pool } = this.#owner;
      const rows = this.#rows;
      const headRows = this.#headRows;
      const sections = pool.shared ? null : this.#memory.inputs(stage, rows, headRows);
      const transfer = sections === null ? [] : transferList(sections);
      const answer = await pool.run(
        { type: 'stage', batch: this.#id, stage, rows, headRows, layer, sections },
        transfer,
      );
      if (answer !== null) this.#memory.accept(answer);
    } finally {
      this.#busy = false;
    }
  }

  #check({ tokenIds, positions, headRows, inverseTemperatures }: DenseStep): void {
    const { vocabSize } = this.#owner.config;
    const { maxHeadRows } = this.#memory.shape;
    const rows = tokenIds.length;
    if (rows > this.maxRows || headRows.length > maxHeadRows) {
      throw new RangeError(
        `${rows} rows and ${headRows.length} head rows in a micro-batch made for ${this.maxRows} and ${maxHeadRows}`,
      );
    }
    if (positions.length !== rows || inverseTemperatures.length !== headRows.length) {
      throw new RangeError('positions go with tokenIds, and inverseTemperatures with headRows, one for one');
    }
    const stray = tokenIds.find((id) => id >= vocabSize);
    if (stray !== undefined) {
      throw new InputError('TOKEN_ID', `token id ${stray} is outside the vocabulary of ${vocabSize}`);
    }
    const strayRow = headRows.find((row) => row >= rows);
    if (strayRow !== undefined) throw new RangeError(`head row ${strayRow} of ${rows} rows`);
  }
}
