// The best 64 logits of each chunk of 1024, and the chunk's sums of exponentials: the first stage of top-k over any vocabulary.
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
