// The best 64 of a row's lists of 64, and their sums of exponentials brought to the common best: the second stage of top-k.
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
