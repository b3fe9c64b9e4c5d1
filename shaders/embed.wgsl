// Embedding gather: residual[row] = table[token_ids[row]]. A table too large for one binding is split by rows; each dispatch
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
