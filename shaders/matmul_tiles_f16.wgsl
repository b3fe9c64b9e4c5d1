// y = x · Wᵀ (+ bias) (+ y) for many rows (prefill, large micro-batches): a workgroup computes a tile of 8 · ROW_LANES rows by
// 64 outputs, taking 16 inputs at a time through workgroup memory; a thread keeps 8 rows × 4 outputs in registers.
// W and x are padded with zeros to octets of inputs. Weights are f16, read as such (the feature shader-f16); sums are f32.

enable f16;

// Threads along the rows of the tile; 16 along its outputs.
override ROW_LANES: u32 = 8;

struct Params {
  rows: u32,
  // The first row of x that is read; y begins at its row 0.
  first_row: u32,
  // Inputs / 8, rounded up.
  octets: u32,
  // Outputs of this part of W, and the column of y (and the element of bias) where they begin.
  outputs: u32,
  first_output: u32,
  y_stride: u32,
  has_bias: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [first_row + rows, 8 octets]
@group(0) @binding(1) var<storage, read> weights: array<vec4<f16>>; // [outputs, 8 octets]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with `has_bias` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

const OUTPUT_LANES = 16u;
const TILE_OUTPUTS = 64u;
const ROWS = 8u;
const OUTPUTS = 4u;
const QUADS = 4u; // quads of inputs taken at a time
const PITCH = 5u; // quads from one tile row to the next: one more than there are, so that lanes hit different banks

var<workgroup> x_tile: array<vec4<f32>, ROW_LANES * ROWS * PITCH>; // [row][quad]
// In f32: multiplying f16 as it comes, from a tile of half the size, issues at 39 % of the f32 peak on RDNA3 (this: 64 %), 57 %
// on Xe-HPG (66 %), and the same 78 % on RDNA2.
var<workgroup> w_tile: array<vec4<f32>, TILE_OUTPUTS * PITCH>; // [output][quad]

@compute @workgroup_size(OUTPUT_LANES, ROW_LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let threads = OUTPUT_LANES * ROW_LANES;
  let tile_output = group.x * TILE_OUTPUTS;
  let tile_rows = ROW_LANES * ROWS;
  let tile_row = group.y * tile_rows;
  let quads = params.octets * 2u;
  // Row r and output o of this thread are r · ROW_LANES and o · OUTPUT_LANES apart in the tile.
  var sums: array<vec4<f32>, ROWS>; // [row] of four outputs
  for (var quad = 0u; quad < quads; quad += QUADS) {
    // Rows and outputs past the end load the last one again and are never written; inputs past the end are zero.
    for (var i = thread; i < tile_rows * QUADS; i += threads) {
      let q = quad + i % QUADS;
      let row = params.first_row + min(tile_row + i / QUADS, params.rows - 1u);
      var value = vec4<f32>();
      if (q < quads) {
        value = x[row * quads + q];
      }
      x_tile[(i / QUADS) * PITCH + i % QUADS] = value;
    }
    for (var i = thread; i < TILE_OUTPUTS * QUADS; i += threads) {
      let q = quad + i % QUADS;
      let output = min(tile_output + i / QUADS, params.outputs - 1u);
      var value = vec4<f32>();
      if (q < quads) {
        value = vec4<f32>(weights[output * quads + q]);
      }
      w_tile[(i / QUADS) * PITCH + i % QUADS] = value;
    }
    workgroupBarrier();
    // A bound that the compiler does not know: unrolled, the body spills on Intel and compiles for seconds on CPUs.
    for (var q = 0u; q < min(QUADS, quads - quad); q++) {
      let input = transpose(mat4x4<f32>(
        w_tile[lane.x * PITCH + q],
        w_tile[(lane.x + OUTPUT_LANES) * PITCH + q],
        w_tile[(lane.x + 2u * OUTPUT_LANES) * PITCH + q],
        w_tile[(lane.x + 3u * OUTPUT_LANES) * PITCH + q],
      )); // [input] of four outputs
      for (var r = 0u; r < ROWS; r++) {
        let value = x_tile[(lane.y + r * ROW_LANES) * PITCH + q];
        sums[r] = fma(vec4<f32>(value.x), input[0], sums[r]);
        sums[r] = fma(vec4<f32>(value.y), input[1], sums[r]);
        sums[r] = fma(vec4<f32>(value.z), input[2], sums[r]);
        sums[r] = fma(vec4<f32>(value.w), input[3], sums[r]);
      }
    }
    workgroupBarrier();
  }
  var biases = vec4<f32>();
  if (params.has_bias != 0u) {
    for (var o = 0u; o < OUTPUTS; o++) {
      let output = min(tile_output + lane.x + o * OUTPUT_LANES, params.outputs - 1u);
      biases[o] = bias[params.first_output + output];
    }
  }
  for (var r = 0u; r < ROWS; r++) {
    let row = tile_row + lane.y + r * ROW_LANES;
    let sum = sums[r] + biases;
    for (var o = 0u; o < OUTPUTS; o++) {
      let output = tile_output + lane.x + o * OUTPUT_LANES;
      if (row < params.rows && output < params.outputs) {
        let at = row * params.y_stride + params.first_output + output;
        y[at] = sum[o] + select(0.0, y[at], params.accumulate != 0u);
      }
    }
  }
}
