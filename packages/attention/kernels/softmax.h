/*
 * Online softmax over one tile of scores (base 2) of 1 to 6 rows: raises the running maximum, returns by how much what was
 * summed before shrinks (alpha), and packs the weights for value.h. Milakov and Gimelshein, arXiv 1805.02867.
 */
#pragma once
#include "layout.h"

/* Below any real score; the running maximum starts above it, so that a fully masked tile weighs 0 rather than 1. */
#define MASKED (-3e38f)
#define NO_MAXIMUM (-1e30f)
/* Spans of a tile at most. */
#define MAX_SPANS 4

typedef struct {
  float *scores; /* [rows][stride]; become the weights */
  uint32_t stride;
  uint32_t from;   /* of the tile; a multiple of 16, as tokens */
  uint32_t tokens;
  uint32_t span;   /* int8: tokens of the tile that share a scale of weights */
  char *packed;    /* the weights as value.h wants them; up to 16 bytes beyond the end are overwritten */
  const float *value_scales; /* int8: V scale of each token, 0 where there is none */
  float *maximum, *sum;      /* [rows], running */
  float *alpha;              /* [rows], out */
  float *weight_scale;       /* [rows][MAX_SPANS], out, int8: of spans without tokens 0 */
} SoftmaxRun;

/* Where the span of token i ends, both counted from the run's first. */
INLINE uint32_t span_end(const int dtype, const SoftmaxRun *run, uint32_t i) {
  return IS_INT8(dtype) ? min_u32((run->from + i) / run->span * run->span + run->span - run->from, run->tokens) : run->tokens;
}

/*
 * Four 32-bit items of each row become [4 items][rows]. Where a store writes more lanes than there are rows the next one
 * overwrites them.
 */
INLINE char *pack_rows(const int rows, const Vec *row, char *to) {
  if (rows == 1) {
    STORE(to, row[0]);
  } else if (rows == 2) {
    STORE(to, wasm_i32x4_shuffle(row[0], row[1], 0, 4, 1, 5));
    STORE(to + 16, wasm_i32x4_shuffle(row[0], row[1], 2, 6, 3, 7));
  } else {
    const Vec four[4] = {row[0], row[1], row[2], rows > 3 ? row[3] : row[2]};
    Vec column[4], low = ZERO, high = ZERO;
    transpose4(four, column);
    if (rows > 4) {
      low = wasm_i32x4_shuffle(row[4], row[rows - 1], 0, 4, 1, 5);
      high = wasm_i32x4_shuffle(row[4], row[rows - 1], 2, 6, 3, 7);
    }
    UNROLL for (int t = 0; t < 4; t++) {
      STORE(to + 4 * rows * t, column[t]);
      if (rows > 4 && t % 2 == 0) wasm_v128_store64_lane(to + 4 * rows * t + 16, t < 2 ? low : high, 0);
      if (rows > 4 && t % 2 == 1) wasm_v128_store64_lane(to + 4 * rows * t + 16, t < 2 ? low : high, 1);
    }
  }
  return to + 16 * rows;
}

/* One row. Row by row the constants stay in registers; six rows side by side spill. */
INLINE void softmax_row(const int dtype, const SoftmaxRun *run, uint32_t m) {
  const uint32_t n = run->tokens;
  const int degree = dtype == KV_INT8_DOT ? 3 : 5;
  const Exp2 exp2 = exp2_of_degree(degree);
  float *s = run->scores + m * run->stride;
  Vec top[2] = {SPLAT(MASKED), SPLAT(MASKED)}, sum[2] = {ZERO, ZERO};
  ROLLED for (uint32_t i = 0; i < n; i += 8) UNROLL for (int j = 0; j < 2; j++) top[j] = MAX(top[j], LOAD(s + i + 4 * j));
  const float before = run->maximum[m], here = max_lane(MAX(top[0], top[1])), now = here > before ? here : before;
  run->maximum[m] = now;
  run->alpha[m] = wasm_f32x4_extract_lane(exp2_nonpositive(degree, &exp2, SPLAT(before - now)), 0);
  const Vec subtrahend = SPLAT(now);
  ROLLED for (uint32_t i = 0, end; i < n; i = end) {
    Vec peak[2] = {ZERO, ZERO};
    const uint32_t first = i;
    end = span_end(dtype, run, first);
    ROLLED for (; i < end; i += 8) UNROLL for (int j = 0; j < 2; j++) {
      Vec e = exp2_nonpositive(degree, &exp2, SUB(LOAD(s + i + 4 * j), subtrahend));
      sum[j] = ADD(sum[j], e);
      if (IS_INT8(dtype)) {
        e = MUL(e, LOAD(run->value_scales + i + 4 * j));
        peak[j] = MAX(peak[j], e);
      } else if (dtype == KV_F16) {
        e = MUL(e, SPLAT(F16_FACTOR));
      }
      STORE(s + i + 4 * j, e);
    }
    if (IS_INT8(dtype)) run->weight_scale[MAX_SPANS * m + (run->from + first) / run->span] = max_lane(MAX(peak[0], peak[1]));
  }
  run->sum[m] = run->sum[m] * run->alpha[m] + add_lanes(ADD(sum[0], sum[1]));
}

/*
 * Packs the weights of a group of rows. int8: as integers relative to the span's largest product with a V scale, not to 1, so that an
 * attention sink of tiny V costs no precision, nor does what it outweighs in other spans.
 */
INLINE void pack_weights(const int dtype, const int rows, const SoftmaxRun *run) {
  const uint32_t n = run->tokens, stride = run->stride;
  const int vectors = dtype == KV_INT8_DOT ? 4 : dtype == KV_INT8_PAIRS ? 2 : 1;
  const float limit = dtype == KV_INT8_DOT ? 255.0f : 16384.0f; /* pairs: 127 * limit * TILE_TOKENS stays within int32 */
  CONSTANT(shift, SPLAT(12582912.0f));
  CONSTANT(bits, BITS(0x4b400000));
  const float *s = run->scores;
  char *to = run->packed;
  ROLLED for (uint32_t i = 0, end; i < n; i = end) {
    end = span_end(dtype, run, i);
    float inverse[MAX_GROUP];
    UNROLL for (int m = 0; m < rows && IS_INT8(dtype); m++) {
      float *scale = run->weight_scale + MAX_SPANS * m + (run->from + i) / run->span;
      const float most = *scale;
      inverse[m] = most > 0x1p-110f ? limit / most : 0;
      *scale = most / limit;
    }
    ROLLED for (; i < end; i += 4 * vectors, s += 4 * vectors) {
      Vec item[MAX_GROUP];
      UNROLL for (int m = 0; m < rows; m++) {
        Vec x[4];
        UNROLL for (int j = 0; j < vectors; j++) {
          x[j] = LOAD(s + m * stride + 4 * j);
          if (IS_INT8(dtype)) x[j] = wasm_i32x4_sub(MADD(x[j], SPLAT_AT(inverse + m), shift), bits);
        }
        if (IS_INT8(dtype)) x[0] = wasm_i16x8_narrow_i32x4(x[0], x[1]);
        if (dtype == KV_INT8_DOT) x[0] = wasm_u8x16_narrow_i16x8(x[0], wasm_i16x8_narrow_i32x4(x[2], x[3]));
        item[m] = x[0];
      }
      to = pack_rows(rows, item, to);
    }
  }
}

typedef void SoftmaxFn(const SoftmaxRun *run);
#define SOFTMAX(name, row, dtype, rows)                             \
  NOINLINE void name(const SoftmaxRun *run) {                       \
    ROLLED for (uint32_t m = 0; m < rows; m++) row(run, m);         \
    pack_weights(dtype, rows, run);                                 \
  }
#define SOFTMAXES(name, dtype)                                                                               \
  NOINLINE void name##_row(const SoftmaxRun *run, uint32_t m) { softmax_row(dtype, run, m); }                \
  SOFTMAX(name##_1, name##_row, dtype, 1) SOFTMAX(name##_2, name##_row, dtype, 2)                            \
  SOFTMAX(name##_3, name##_row, dtype, 3) SOFTMAX(name##_4, name##_row, dtype, 4)                            \
  SOFTMAX(name##_5, name##_row, dtype, 5) SOFTMAX(name##_6, name##_row, dtype, 6)                            \
  static SoftmaxFn *const name##_fns[MAX_GROUP] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};
SOFTMAXES(softmax_f32, KV_F32)
SOFTMAXES(softmax_f16, KV_F16)
SOFTMAXES(softmax_pairs, KV_INT8_PAIRS)
#if HAS_DOT
SOFTMAXES(softmax_dot, KV_INT8_DOT)
#endif

/* [dtype][rows - 1] */
static SoftmaxFn *const *const softmax_fns[KV_DTYPES] = {softmax_f32_fns, softmax_f16_fns, softmax_f32_fns,
                                                         softmax_pairs_fns,
#if HAS_DOT
                                                         softmax_dot_fns
#endif
};
