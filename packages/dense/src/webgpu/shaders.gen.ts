/** Generated from shaders/*.wgsl by scripts/embed-shaders.ts. Change those, then run it again. */
export const SHADERS = {
  embed: `// Embedding gather: residual[row] = table[token_ids[row]]. A table too large for one binding is split by rows; each dispatch
// writes the rows whose tokens its part holds, so that after all parts every row has been written exactly once.

// Whether the table holds two f16 in a word, else one f32.
override TABLE_F16: bool = false;
override LANES: u32 = 64;

struct Params {
  rows: u32,
  // Elements of a row of the table and of the residual: even, zero-padded.
  stride: u32,
  // The part's range of token ids.
  first_token: u32,
  tokens: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>; // [tokens, stride] f32 or f16
@group(0) @binding(1) var<storage, read> token_ids: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> residual: array<vec2<f32>>; // [rows, stride]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let row = group.y;
  let pairs = params.stride / 2u;
  let pair = group.x * LANES + lane.x;
  let token = token_ids[row];
  if (pair >= pairs || token < params.first_token || token - params.first_token >= params.tokens) {
    return;
  }
  let at = (token - params.first_token) * pairs + pair;
  if (TABLE_F16) {
    residual[row * pairs + pair] = unpack2x16float(table[at]);
  } else {
    residual[row * pairs + pair] = bitcast<vec2<f32>>(vec2<u32>(table[2u * at], table[2u * at + 1u]));
  }
}
`,
  head_candidates: `// The best 64 logits of each chunk of 1024, and the chunk's sums of exponentials: the first stage of top-k over any vocabulary.
// Blocks of 64 are sorted (bitonic), then pairs of blocks keep their best 64 until one block is left. The order is total:
// logit descending, then id ascending. Result lists have head_merge's layout.

// A power of two, at least 2.
override THREADS: u32 = 64;

struct Params {
  rows: u32,
  // The row of inverse_temperatures that belongs to row 0.
  first_row: u32,
  vocab: u32,
  chunks: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [rows, vocab]
@group(0) @binding(1) var<storage, read> inverse_temperatures: array<f32>; // [first_row + rows]
@group(0) @binding(2) var<storage, read_write> lists: array<u32>; // [rows, chunks, LIST]
@group(0) @binding(3) var<uniform> params: Params;

const BEST = 64u;
const CHUNK = 1024u;
const LIST = 132u; // ids [64], logits [64] f32, Σ exp(l − best), Σ exp((l − best) / temperature), 2 unused
const LOWEST = -3.4028234e38;
const NO_ID = 0xffffffffu;

var<workgroup> scores: array<f32, CHUNK>;
var<workgroup> ids: array<u32, CHUNK>;
var<workgroup> sums: array<vec2<f32>, THREADS>;

fn before(a: u32, b: u32) -> bool {
  return scores[a] > scores[b] || (scores[a] == scores[b] && ids[a] < ids[b]);
}

fn compare_exchange(low: u32, high: u32, descending: bool) {
  if (before(high, low) == descending) {
    let score = scores[low];
    let id = ids[low];
    scores[low] = scores[high];
    ids[low] = ids[high];
    scores[high] = score;
    ids[high] = id;
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.y;
  let first_id = group.x * CHUNK;
  let count = min(CHUNK, params.vocab - first_id);
  let from_logits = row * params.vocab + first_id;
  for (var i = thread; i < CHUNK; i += THREADS) {
    scores[i] = LOWEST;
    ids[i] = NO_ID;
    if (i < count) {
      scores[i] = logits[from_logits + i];
      ids[i] = first_id + i;
    }
  }
  // Sort blocks of 64: even blocks descend, odd ones ascend.
  for (var size = 2u; size <= BEST; size *= 2u) {
    for (var step = size / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      for (var i = thread; i < CHUNK / 2u; i += THREADS) {
        let low = 2u * i - (i & (step - 1u));
        compare_exchange(low, low + step, (low & size) == 0u);
      }
    }
  }
  // A descending and an ascending block, compared place by place, leave the best 64 of both in bitonic order.
  for (var pitch = BEST; pitch < CHUNK; pitch *= 2u) {
    let pairs = CHUNK / (2u * pitch);
    workgroupBarrier();
    for (var i = thread; i < pairs * BEST; i += THREADS) {
      let low = (i / BEST) * 2u * pitch + i % BEST;
      if (before(low + pitch, low)) {
        scores[low] = scores[low + pitch];
        ids[low] = ids[low + pitch];
      }
    }
    for (var step = BEST / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      for (var i = thread; i < pairs * BEST / 2u; i += THREADS) {
        let pair = i / (BEST / 2u);
        let j = i % (BEST / 2u);
        let low = pair * 2u * pitch + 2u * j - (j & (step - 1u));
        compare_exchange(low, low + step, pair % 2u == 0u);
      }
    }
  }
  workgroupBarrier();
  let best = scores[0];
  let inverse_temperature = inverse_temperatures[params.first_row + row];
  var sum = vec2<f32>();
  for (var i = thread; i < count; i += THREADS) {
    let below = logits[from_logits + i] - best;
    // Far below its least exponent exp() is zero, or whatever an adapter makes of it.
    sum += exp(max(vec2<f32>(below, below * inverse_temperature), vec2<f32>(-87.0)));
  }
  sums[thread] = sum;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      sums[thread] += sums[thread + half];
    }
  }
  workgroupBarrier();
  let list = (row * params.chunks + group.x) * LIST;
  for (var i = thread; i < BEST; i += THREADS) {
    lists[list + i] = ids[i];
    lists[list + BEST + i] = bitcast<u32>(scores[i]);
  }
  if (thread == 0u) {
    lists[list + 2u * BEST] = bitcast<u32>(sums[0].x);
    lists[list + 2u * BEST + 1u] = bitcast<u32>(sums[0].y);
  }
}
`,
  head_merge: `// The best 64 of a row's lists of 64, and their sums of exponentials brought to the common best: the second stage of top-k.
// One workgroup a row takes 15 lists at a time beside the best so far; each list is sorted already, so they only merge.
// The order is total: logit descending, then id ascending.

// A power of two, at least 2.
override THREADS: u32 = 64;

struct Params {
  rows: u32,
  // The row of inverse_temperatures and of results that belongs to row 0.
  first_row: u32,
  chunks: u32,
}

@group(0) @binding(0) var<storage, read> lists: array<u32>; // [rows, chunks, LIST]
@group(0) @binding(1) var<storage, read> inverse_temperatures: array<f32>; // [first_row + rows]
@group(0) @binding(2) var<storage, read_write> results: array<u32>; // [first_row + rows, LIST]
@group(0) @binding(3) var<uniform> params: Params;

const BEST = 64u;
const SLOTS = 16u; // lists that merge at a time; slot 0 holds the best so far
const LIST = 132u; // ids [64], logits [64] f32, Σ exp(l − best), Σ exp((l − best) / temperature), 2 unused
const LOWEST = -3.4028234e38;
const NO_ID = 0xffffffffu;

var<workgroup> scores: array<f32, SLOTS * BEST>;
var<workgroup> ids: array<u32, SLOTS * BEST>;
var<workgroup> sums: array<vec2<f32>, THREADS>;

fn before(a: u32, b: u32) -> bool {
  return scores[a] > scores[b] || (scores[a] == scores[b] && ids[a] < ids[b]);
}

fn compare_exchange(low: u32, high: u32, descending: bool) {
  if (before(high, low) == descending) {
    let score = scores[low];
    let id = ids[low];
    scores[low] = scores[high];
    ids[low] = ids[high];
    scores[high] = score;
    ids[high] = id;
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.x;
  let first_list = row * params.chunks;
  for (var i = thread; i < BEST; i += THREADS) {
    scores[i] = LOWEST;
    ids[i] = NO_ID;
  }
  for (var chunk = 0u; chunk < params.chunks; chunk += SLOTS - 1u) {
    workgroupBarrier();
    for (var i = thread + BEST; i < SLOTS * BEST; i += THREADS) {
      let slot = i / BEST;
      let from_chunk = chunk + slot - 1u;
      scores[i] = LOWEST;
      ids[i] = NO_ID;
      if (from_chunk < params.chunks) {
        // Odd slots are read backwards: a descending and an ascending list meet.
        let place = select(i % BEST, BEST - 1u - i % BEST, slot % 2u == 1u);
        let at = (first_list + from_chunk) * LIST + place;
        ids[i] = lists[at];
        scores[i] = bitcast<f32>(lists[at + BEST]);
      }
    }
    for (var pitch = BEST; pitch < SLOTS * BEST; pitch *= 2u) {
      let pairs = SLOTS * BEST / (2u * pitch);
      workgroupBarrier();
      for (var i = thread; i < pairs * BEST; i += THREADS) {
        let low = (i / BEST) * 2u * pitch + i % BEST;
        if (before(low + pitch, low)) {
          scores[low] = scores[low + pitch];
          ids[low] = ids[low + pitch];
        }
      }
      for (var step = BEST / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        for (var i = thread; i < pairs * BEST / 2u; i += THREADS) {
          let pair = i / (BEST / 2u);
          let j = i % (BEST / 2u);
          let low = pair * 2u * pitch + 2u * j - (j & (step - 1u));
          compare_exchange(low, low + step, pair % 2u == 0u);
        }
      }
    }
  }
  workgroupBarrier();
  let best = scores[0];
  let inverse_temperature = inverse_temperatures[params.first_row + row];
  var sum = vec2<f32>();
  for (var chunk = thread; chunk < params.chunks; chunk += THREADS) {
    let list = (first_list + chunk) * LIST;
    let below = bitcast<f32>(lists[list + BEST]) - best;
    let scale = exp(max(vec2<f32>(below, below * inverse_temperature), vec2<f32>(-87.0)));
    sum = fma(scale, vec2<f32>(bitcast<f32>(lists[list + 2u * BEST]), bitcast<f32>(lists[list + 2u * BEST + 1u])), sum);
  }
  sums[thread] = sum;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      sums[thread] += sums[thread + half];
    }
  }
  workgroupBarrier();
  let result = (params.first_row + row) * LIST;
  for (var i = thread; i < BEST; i += THREADS) {
    results[result + i] = ids[i];
    results[result + BEST + i] = bitcast<u32>(scores[i]);
  }
  if (thread == 0u) {
    results[result + 2u * BEST] = bitcast<u32>(sums[0].x);
    results[result + 2u * BEST + 1u] = bitcast<u32>(sums[0].y);
  }
}
`,
  matmul_rows: `// y = x · Wᵀ (+ bias) (+ y) for few rows (decode), where reading W is the cost: each weight is loaded once for four rows, by
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
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with \`has_bias\` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

const OUTPUTS = 4u;
const ROWS = 4u;

// One vector of four rows for each lane, group and output.
var<workgroup> partial: array<vec4<f32>, LANES * GROUPS * OUTPUTS>;

// Eight weights, beginning at octet \`at\`.
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
`,
  matmul_rows_f16: `// y = x · Wᵀ (+ bias) (+ y) for few rows (decode), where reading W is the cost: each weight is loaded once for four rows, by
// LANES threads that walk the inputs side by side. A thread keeps 4 outputs × 4 rows and the lanes' sums meet at the end. For a
// single row it keeps 4 outputs × 4 inputs in place of the rows, which takes a quarter of the arithmetic.
// W and x are padded with zeros to octets of inputs. Weights are f16, read as such (the feature shader-f16); sums are f32.

enable f16;

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
@group(0) @binding(1) var<storage, read> weights: array<vec4<f16>>; // [outputs, 8 octets]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with \`has_bias\` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

const OUTPUTS = 4u;
const ROWS = 4u;

// One vector of four rows for each lane, group and output.
var<workgroup> partial: array<vec4<f32>, LANES * GROUPS * OUTPUTS>;

// Eight weights, beginning at octet \`at\`.
fn weights_at(at: u32) -> mat2x4<f32> {
  return mat2x4<f32>(vec4<f32>(weights[2u * at]), vec4<f32>(weights[2u * at + 1u]));
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
`,
  matmul_tiles: `// y = x · Wᵀ (+ bias) (+ y) for many rows (prefill, large micro-batches): a workgroup computes a tile of 8 · ROW_LANES rows by
// 64 outputs, taking 16 inputs at a time through workgroup memory; a thread keeps 8 rows × 4 outputs in registers.
// W and x are padded with zeros to octets of inputs. Weights are f32, or f16 packed two to a word.

override WEIGHTS_F16: bool = false;
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
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [outputs, 8 octets] f32 or f16
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with \`has_bias\` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

const OUTPUT_LANES = 16u;
const TILE_OUTPUTS = 64u;
const ROWS = 8u;
const OUTPUTS = 4u;
const QUADS = 4u; // quads of inputs taken at a time
const PITCH = 5u; // quads from one tile row to the next: one more than there are, so that lanes hit different banks

var<workgroup> x_tile: array<vec4<f32>, ROW_LANES * ROWS * PITCH>; // [row][quad]
var<workgroup> w_tile: array<vec4<f32>, TILE_OUTPUTS * PITCH>; // [output][quad]

// Four weights, beginning at quad \`at\`.
fn weights_at(at: u32) -> vec4<f32> {
  if (WEIGHTS_F16) {
    let words = weights[at / 2u];
    let two = select(words.xy, words.zw, at % 2u == 1u);
    return vec4<f32>(unpack2x16float(two.x), unpack2x16float(two.y));
  }
  return bitcast<vec4<f32>>(weights[at]);
}

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
        value = weights_at(output * quads + q);
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
`,
  matmul_tiles_f16: `// y = x · Wᵀ (+ bias) (+ y) for many rows (prefill, large micro-batches): a workgroup computes a tile of 8 · ROW_LANES rows by
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
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [first_output + outputs], read with \`has_bias\` only
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
`,
  rms_norm: `// RMSNorm (arXiv 1910.07467): y[row] = x[row] / sqrt(mean(x[row]²) + eps) · weight. One workgroup a row. With \`gather\` the
// input row is picked by an index list: the head norms only the rows whose next token is wanted.

override LANES: u32 = 64;

struct Params {
  rows: u32,
  width: u32,
  // Elements from one row to the next, of x and of y.
  stride: u32,
  gather: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [any, stride]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [width]
@group(0) @binding(2) var<storage, read> row_indices: array<u32>; // [rows], read with \`gather\` only
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, stride]
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let row = group.x;
  var source = row;
  if (params.gather != 0u) {
    source = row_indices[row];
  }
  let from_x = source * params.stride;
  var sum = 0.0;
  for (var i = lane.x; i < params.width; i += LANES) {
    let value = x[from_x + i];
    sum = fma(value, value, sum);
  }
  partial[lane.x] = sum;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane.x < half) {
      partial[lane.x] += partial[lane.x + half];
    }
  }
  workgroupBarrier();
  let scale = 1.0 / sqrt(partial[0] / f32(params.width) + params.eps);
  for (var i = lane.x; i < params.width; i += LANES) {
    y[row * params.stride + i] = x[from_x + i] * scale * weight[i];
  }
}
`,
  rope: `// q/k norm (where the model has it) and rotary embedding of q and k, in place in the rows of [q | k | v]. In the half-split
// layout element i of a head turns with element i + head_dim/2. Angles come as a table of cosines and sines, made in double
// precision on the host, so that no adapter's sin and cos matter. LANES threads a head, HEADS heads a workgroup.

override LANES: u32 = 16;
override HEADS: u32 = 4;

struct Params {
  rows: u32,
  q_heads: u32,
  k_heads: u32,
  head_dim: u32,
  // Whether each head is RMS-normed before it turns, with the weights of q_norm and k_norm.
  normed: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> table: array<f32>; // [rows, 2 (cos, sin), head_dim / 2]
@group(0) @binding(1) var<storage, read> q_norm: array<f32>; // [head_dim]
@group(0) @binding(2) var<storage, read> k_norm: array<f32>; // [head_dim]
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>; // [rows, (q_heads + 2 k_heads) head_dim]
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> partial: array<f32, LANES * HEADS>;

@compute @workgroup_size(LANES, HEADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let row = group.y;
  let heads = params.q_heads + params.k_heads;
  let mine = group.x * HEADS + lane.y;
  // Threads past the last head work on it as well, so that all meet at the barriers, and don't write.
  let head = min(mine, heads - 1u);
  let head_dim = params.head_dim;
  let half = head_dim / 2u;
  let base = (row * (heads + params.k_heads) + head) * head_dim;
  let from_cos = row * head_dim;
  var scale = 1.0;
  if (params.normed != 0u) {
    var sum = 0.0;
    for (var i = lane.x; i < head_dim; i += LANES) {
      sum = fma(qkv[base + i], qkv[base + i], sum);
    }
    partial[lane.y * LANES + lane.x] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      if (lane.x < step) {
        partial[lane.y * LANES + lane.x] += partial[lane.y * LANES + lane.x + step];
      }
    }
    workgroupBarrier();
    scale = 1.0 / sqrt(partial[lane.y * LANES] / f32(head_dim) + params.eps);
  }
  if (mine >= heads) {
    return;
  }
  for (var i = lane.x; i < half; i += LANES) {
    var low = qkv[base + i] * scale;
    var high = qkv[base + half + i] * scale;
    if (params.normed != 0u) {
      if (head < params.q_heads) {
        low *= q_norm[i];
        high *= q_norm[half + i];
      } else {
        low *= k_norm[i];
        high *= k_norm[half + i];
      }
    }
    let cosine = table[from_cos + i];
    let sine = table[from_cos + half + i];
    qkv[base + i] = low * cosine - high * sine;
    qkv[base + half + i] = high * cosine + low * sine;
  }
}
`,
  swiglu: `// SwiGLU (arXiv 2002.05202): y = silu(gate) · up, of rows [gate | up].

override LANES: u32 = 64;

struct Params {
  rows: u32,
  width: u32,
  // Elements from one row of y to the next.
  y_stride: u32,
}

@group(0) @binding(0) var<storage, read> gate_up: array<f32>; // [rows, 2 width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(2) var<uniform> params: Params;

// x · sigmoid(x). The exponent stays where exp neither overflows nor leaves its normal range.
fn silu(x: f32) -> f32 {
  let e = exp(max(-abs(x), -87.0));
  return x * select(e, 1.0, x >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
  let row = group.y;
  let i = group.x * LANES + lane.x;
  if (i < params.width) {
    let at = row * 2u * params.width + i;
    y[row * params.y_stride + i] = silu(gate_up[at]) * gate_up[at + params.width];
  }
}
`,
} as const;
