/**
 * Rows between the engine's f32 arrays and the wire. f32 is sent from those arrays and received into them; f16 and int8 are rounded
 * into, and widened from, a buffer of a pool. What has come is only the caller's when `arrived` has returned.
 */
import { type AttentionGeometry, outputRowFloats, ProtocolError, type RowDtype } from '@glinthawk/core';
import {
  type AttendFields,
  attendFrame,
  BufferPool,
  bytesOf,
  type OutgoingFrame,
  outputBytes,
  type PayloadTarget,
  qkvBytes,
  resultLayout,
} from '@glinthawk/wire';
import { RowCodec } from '../row-codec.ts';

/** The rows of one RESULT that is to come. */
export interface AwaitedRows {
  readonly rows: number;
  readonly hasSums: boolean;
  readonly payloadBytes: number;
  /** Where the payload goes. */
  readonly target: PayloadTarget;
  /** Exactly the step's. */
  readonly output: Float32Array; // [rows, groupSize kvHeads headDim]
  readonly logSumExp: Float32Array | undefined; // [rows, groupSize kvHeads]
  /** The payload is whole: from now on output and logSumExp are. @throws ProtocolError */
  arrived(): void;
  /** It will not come. */
  release(): void;
}

export class RemoteRows {
  readonly #geometry: AttentionGeometry;
  readonly #dtype: RowDtype;
  readonly #heads: number;
  readonly #qkv: RowCodec;
  readonly #output: RowCodec;
  readonly #pool = new BufferPool();

  /** @throws DeviceError */
  static async create(geometry: AttentionGeometry, dtype: RowDtype): Promise<RemoteRows> {
    const { groupSize, kvHeads, headDim } = geometry;
    const heads = groupSize * kvHeads;
    const qkv = await RowCodec.create(dtype, heads + 2 * kvHeads, headDim);
    return new RemoteRows(geometry, dtype, qkv, await RowCodec.create(dtype, heads, headDim));
  }

  private constructor(geometry: AttentionGeometry, dtype: RowDtype, qkv: RowCodec, output: RowCodec) {
    this.#geometry = geometry;
    this.#dtype = dtype;
    this.#heads = geometry.groupSize * geometry.kvHeads;
    this.#qkv = qkv;
    this.#output = output;
  }

  get allocatedBytes(): number {
    return this.#pool.allocatedBytes;
  }

  /**
   * The ATTEND of `floats`, which must not change until it was sent.
   * @param floats [rows, (groupSize + 2) kvHeads headDim]
   */
  sent(
    step: Pick<AttendFields, 'id' | 'layer' | 'rows'>,
    floats: Float32Array,
    wantsLogSumExp: boolean,
  ): { readonly frame: OutgoingFrame; readonly onSent?: () => void } {
    const fields = { ...step, dtype: this.#dtype, wantsLogSumExp };
    if (this.#dtype === 'f32') return { frame: attendFrame(fields, bytesOf(floats)) };
    const bytes = this.#pool.take(qkvBytes(this.#geometry, step.rows, this.#dtype));
    this.#qkv.encode(floats, step.rows, bytes);
    return { frame: attendFrame(fields, bytes), onSent: () => this.#pool.give(bytes) };
  }

  /** @param output, logSumExp at least `rows` rows of each */
  awaited(rows: number, output: Float32Array, logSumExp: Float32Array | undefined): AwaitedRows {
    const layout = resultLayout(this.#geometry, rows, this.#dtype, logSumExp !== undefined);
    const ownOutput = output.subarray(0, rows * outputRowFloats(this.#geometry));
    const ownSums = logSumExp?.subarray(0, rows * this.#heads);
    const gap = new Uint8Array(ownSums === undefined ? 0 : layout.logSumExpOffset - layout.outputBytes);
    let received: Uint8Array<ArrayBuffer> | undefined;
    let pieces: readonly Uint8Array[] | undefined;
    const release = () => {
      if (received !== undefined) this.#pool.give(received);
      received = undefined;
    };
    return {
      rows,
      hasSums: ownSums !== undefined,
      payloadBytes: layout.payloadBytes,
      output: ownOutput,
      logSumExp: ownSums,
      target: () => {
        if (pieces !== undefined) return pieces;
        if (this.#dtype !== 'f32') received = this.#pool.take(outputBytes(this.#geometry, rows, this.#dtype));
        pieces = [received ?? bytesOf(ownOutput), ...(ownSums === undefined ? [] : [gap, bytesOf(ownSums)])];
        return pieces;
      },
      arrived: () => {
        if (gap.some((byte) => byte !== 0)) {
          throw new ProtocolError('BAD_PADDING', 'RESULT: the gap between o and the log-sum-exps is not zero');
        }
        if (received !== undefined) this.#output.decode(received, rows, ownOutput);
        release();
      },
      release,
    };
  }

  /** Lets go of every buffer; those on their way are dropped when they were sent. */
  close(): void {
    this.#pool.close();
    this.#qkv.close();
    this.#output.close();
  }
}
