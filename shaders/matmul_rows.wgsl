// y = x · Wᵀ (+ bias) (+ y) for few rows (decode), where reading W is the cost: each weight is loaded once for four rows, by
// LANES threads that walk the inputs side by side. A thread keeps 4 outputs × 4 rows and the lanes' sums meet at the end. For a
// single row it keeps 4 outputs × 4 inputs in place of the rows, which takes a quarter of the arithmetic.
// W and x are padded with zeros to octets of inputs. Weights are f32, or f16 packed two to a word.

override WEIGHTS_F16: bool = false;
// Threads along the inputs, and groups of four outputs in a workgroup.
override LANES: u32 = 16;
override GROUPS: u32 = 4;
override SINGLE_ROW: bool = false;

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
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [outputs, 8 octets] f32 or f16
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with `has_bias` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

const OUTPUTS = 4u;
const ROWS = 4u;

// One vector of four rows for each lane, group and output.
var<workgroup> partial: array<vec4<f32>, LANES * GROUPS * OUTPUTS>;

// Eight weights, beginning at octet `at`.
fn weights_at(at: u32) -> mat2x4<f32> {
  if (WEIGHTS_F16) {
    let words = weights[at];
    return mat2x4<f32>(
      vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
      vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
  }
  return mat2x4<f32>(bitcast<vec4<f32>>(weights[2u * at]), bitcast<vec4<f32>>(weights[2u * at + 1u]));
}

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let output = (group.x * GROUPS + lane.y) * OUTPUTS;
  let row = group.y * ROWS;
  let octets = params.octets;
  // Rows and outputs past the end read the last one again: no branch in the loop, nothing out of bounds, never written.
  let rows = params.first_row + min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u));
  let outputs = min(vec4<u32>(output) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.outputs - 1u));
  let from_x = rows * octets * 2u;
  let from_w = outputs * octets;
  var sums: array<vec4<f32>, OUTPUTS>; // [output] of four rows, or of one row's inputs modulo 4
  for (var octet = lane.x; octet < octets; octet += LANES) {
    let w = array<mat2x4<f32>, OUTPUTS>(
      weights_at(from_w.x + octet),
      weights_at(from_w.y + octet),
      weights_at(from_w.z + octet),
      weights_at(from_w.w + octet),
    );
    for (var half = 0u; half < 2u; half++) {
      let at = from_x + octet * 2u + half;
      if (SINGLE_ROW) {
        for (var o = 0u; o < OUTPUTS; o++) {
          sums[o] = fma(x[at.x], w[o][half], sums[o]);
        }
      } else {
        let column = transpose(mat4x4<f32>(x[at.x], x[at.y], x[at.z], x[at.w])); // [input] of four rows
        for (var o = 0u; o < OUTPUTS; o++) {
          let four = w[o][half];
          sums[o] = fma(column[0], vec4<f32>(four.x), sums[o]);
          sums[o] = fma(column[1], vec4<f32>(four.y), sums[o]);
          sums[o] = fma(column[2], vec4<f32>(four.z), sums[o]);
          sums[o] = fma(column[3], vec4<f32>(four.w), sums[o]);
        }
      }
    }
  }
  let mine = (lane.y * LANES + lane.x) * OUTPUTS;
  for (var o = 0u; o < OUTPUTS; o++) {
    partial[mine + o] = sums[o];
  }
  workgroupBarrier();
  for (var cell = lane.x; cell < OUTPUTS * select(ROWS, 1u, SINGLE_ROW); cell += LANES) {
    let o = cell % OUTPUTS;
    let r = cell / OUTPUTS;
    var four = vec4<f32>();
    for (var l = 0u; l < LANES; l++) {
      four += partial[(lane.y * LANES + l) * OUTPUTS + o];
    }
    var sum = four[r];
    if (SINGLE_ROW) {
      sum = (four.x + four.y) + (four.z + four.w);
    }
    if (row + r < params.rows && output + o < params.outputs) {
      let column = params.first_output + output + o;
      let at = (row + r) * params.y_stride + column;
      if (params.has_bias != 0u) {
        sum += bias[column];
      }
      if (params.accumulate != 0u) {
        sum += y[at];
      }
      y[at] = sum;
    }
  }
}
