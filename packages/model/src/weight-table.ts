/**
 * A WeightSource over tensors that lie anywhere in any files: file formats fill the table, this reads it on demand, in pieces,
 * and holds no weights. Also undoes GGUF's interleaved RoPE order of q and k rows.
 */
import {
  type ModelConfig,
  ModelFormatError,
  type RowRange,
  type WeightInfo,
  type WeightName,
  type WeightSource,
} from '@glinthawk/core';
import type { FileSource } from './file-source.ts';
import { storedBytes, type TensorKind } from './tensor-kinds.ts';
import { elementCount, weightShapes } from './weight-shapes.ts';

/** Stored bytes decoded at once: what a read needs beyond its result. */
const PIECE_BYTES = 4 * 2 ** 20;

export interface StoredTensor {
  /** The file's own name for it, as in errors. */
  readonly storedName: string;
  readonly file: FileSource;
  /** Of its first byte in the file. */
  readonly offset: number;
  readonly kind: TensorKind;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** Set when rows of each head (this many) are stored interleaved: 0, d/2, 1, d/2 + 1, … in half-split order. */
  readonly interleavedHeadDim?: number;
}

/**
 * Holds a table against what the configuration calls for.
 * @throws ModelFormatError for a tensor that is missing or has another shape
 */
export function checkTable(
  config: ModelConfig,
  table: ReadonlyMap<WeightName, StoredTensor>,
  storedName: (name: WeightName) => string,
): void {
  for (const [name, shape] of weightShapes(config)) {
    const tensor = table.get(name);
    if (tensor === undefined) {
      throw new ModelFormatError('MODEL_TENSOR_MISSING', `the model has no tensor ${storedName(name)} (${name})`, {
        hint:
          name === 'head'
            ? 'If the model shares its embeddings with the head, config.json must say "tie_word_embeddings": true.'
            : 'A weight file is missing or damaged, or config.json belongs to another model.',
      });
    }
    if (shape.length !== tensor.shape.length || shape.some((length, i) => length !== tensor.shape[i])) {
      throw new ModelFormatError(
        'MODEL_TENSOR_SHAPE',
        `${tensor.file.name}: tensor ${tensor.storedName} has shape [${tensor.shape.join(', ')}]; the configuration calls for [${shape.join(', ')}]`,
      );
    }
  }
}

export class WeightTable implements WeightSource {
  readonly #table: ReadonlyMap<WeightName, StoredTensor>;
  readonly #files: readonly FileSource[];
  #closed = false;

  /** Owns `files`, which `table` refers to. */
  constructor(table: ReadonlyMap<WeightName, StoredTensor>, files: readonly FileSource[]) {
    this.#table = table;
    this.#files = files;
  }

  /** What it holds, in the table's order. */
  names(): readonly WeightName[] {
    return [...this.#table.keys()];
  }

  has(name: WeightName): boolean {
    return this.#table.has(name);
  }

  tensor(name: WeightName): StoredTensor {
    const tensor = this.#table.get(name);
    if (tensor === undefined) throw new ModelFormatError('MODEL_TENSOR_MISSING', `the model has no tensor ${name}`);
    return tensor;
  }

  info(name: WeightName): WeightInfo {
    const { kind, shape } = this.tensor(name);
    return { shape, stored: kind.name, storedBytes: storedBytes(kind, elementCount(shape)) ?? 0 };
  }

  async read(name: WeightName, rows?: RowRange): Promise<Float32Array> {
    const tensor = this.tensor(name);
    const total = tensor.shape[0] ?? 0;
    const { start, end } = rows ?? { start: 0, end: total };
    if (!(Number.isInteger(start) && Number.isInteger(end) && start >= 0 && start <= end && end <= total)) {
      throw new RangeError(`rows ${start} to ${end} of ${name}, which has ${total}`);
    }
    const width = elementCount(tensor.shape.slice(1)); // 1 for a vector
    if (tensor.interleavedHeadDim === undefined) return this.#elements(tensor, start * width, end * width);
    return this.#halfSplit(tensor, tensor.interleavedHeadDim, start, end, width);
  }

  /** Closes the files. Reads fail from now on. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all(this.#files.map((file) => file.close()));
  }

  /** Rows in half-split order out of whole stored heads: row j of a head is stored at 2j, or at 2(j − d/2) + 1 from d/2 on. */
  async #halfSplit(
    tensor: StoredTensor,
    headDim: number,
    start: number,
    end: number,
    width: number,
  ): Promise<Float32Array> {
    const firstHead = Math.floor(start / headDim);
    const stored = await this.#elements(
      tensor,
      firstHead * headDim * width,
      Math.ceil(end / headDim) * headDim * width,
    );
    const result = new Float32Array((end - start) * width); // [end - start, width]
    const half = headDim / 2;
    for (let row = start; row < end; row++) {
      const inHead = row % headDim;
      const storedInHead = inHead < half ? 2 * inHead : 2 * (inHead - half) + 1;
      const from = (row - inHead - firstHead * headDim + storedInHead) * width;
      result.set(stored.subarray(from, from + width), (row - start) * width);
    }
    return result;
  }

  /** Elements [start, end) of a tensor, in stored order. */
  async #elements(tensor: StoredTensor, start: number, end: number): Promise<Float32Array> {
    if (this.#closed) throw new ModelFormatError('MODEL_CLOSED', `${tensor.file.name} has been closed`);
    const { kind, file, offset } = tensor;
    const result = new Float32Array(end - start);
    const lastBlock = Math.ceil(end / kind.blockElements);
    const step = Math.max(1, Math.floor(PIECE_BYTES / kind.blockBytes));
    for (let block = Math.floor(start / kind.blockElements); block < lastBlock; block += step) {
      const blocks = Math.min(step, lastBlock - block);
      const bytes = await file.read(offset + block * kind.blockBytes, blocks * kind.blockBytes);
      const first = block * kind.blockElements;
      const last = first + blocks * kind.blockElements;
      if (first >= start && last <= end) {
        kind.decode(bytes, result.subarray(first - start, last - start));
      } else {
        // A range of a quantised vector may begin or end inside a block.
        const piece = new Float32Array(last - first);
        kind.decode(bytes, piece);
        const from = Math.max(first, start);
        result.set(piece.subarray(from - first, Math.min(last, end) - first), from - start);
      }
    }
    return result;
  }
}
