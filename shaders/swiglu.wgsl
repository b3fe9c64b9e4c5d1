// SwiGLU (arXiv 2002.05202): y = silu(gate) · up, of rows [gate | up].

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
