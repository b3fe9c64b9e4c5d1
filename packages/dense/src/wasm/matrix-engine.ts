/**
 * Products of activations with weight matrices in one thread's WASM memory: all that a kernel library has to provide for the
 * `wasm` backend. One input at a time; several products may be taken of it (the panels of the head).
 */
export interface WeightMatrix {
  readonly inputs: number;
  readonly outputs: number;
}

export interface MatrixEngine {
  /** For people: the library and the instructions it uses. */
  readonly description: string;
  /**
   * Takes a matrix in the library's own layout.
   * @param weights [outputs, inputs], row-major; not kept
   * @param bias [outputs], or null
   * @throws CapacityError when the memory is full
   */
  addMatrix(weights: Float32Array, inputs: number, outputs: number, bias: Float32Array | null): WeightMatrix;
  /** Makes room for inputs and outputs of this many floats, so that no product fails for want of memory. @throws CapacityError */
  reserve(inputFloats: number, outputFloats: number): void;
  /** The start of the input, to be filled by the caller: [rows, inputs]. Valid until the next reserve or addMatrix. */
  input(floats: number): Float32Array;
  /**
   * The first `rows` rows of the input times the matrix, plus its bias. A row's result depends on neither the other rows nor
   * their number, and a column's not on its neighbours. @returns [rows, outputs], valid until the next product
   */
  multiply(matrix: WeightMatrix, rows: number): Float32Array;
  /** Bytes of WASM memory. */
  heapBytes(): number;
  /** Allocations that are alive: constant from product to product. */
  liveTensors(): number;
}
