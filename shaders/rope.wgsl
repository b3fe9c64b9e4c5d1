// q/k norm (where the model has it) and rotary embedding of q and k, in place in the rows of [q | k | v]. In the half-split
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
