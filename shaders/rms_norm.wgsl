// RMSNorm (arXiv 1910.07467): y[row] = x[row] / sqrt(mean(x[row]²) + eps) · weight. One workgroup a row. With `gather` the
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
@group(0) @binding(2) var<storage, read> row_indices: array<u32>; // [rows], read with `gather` only
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
