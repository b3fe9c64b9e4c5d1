/*
 * Online softmax over one tile of scores (base 2) of 1 to 6 rows: raises the running maximum, returns by how much what was
 * summed before shrinks (alpha), and packs the weights for value.h. Milakov and Gimelshein, arXiv 1805.02867.
 */
#pragma once
#include "layout.h"

/* Below any real score; the running maximum starts above it, so that a fully masked tile weighs 0 rather than 1. */
#define MASKED (-3e38f)
#define NO_MAXIMUM (-1e30f)

typedef struct {
  float *scores; /* [rows][stride]; overwritten */
  uint32_t stride;
  uint32_t tokens; /* a multiple of TOKEN_UNIT */
  char *weights;   /* packed; up to 16 bytes beyond the end are overwritten */
  const float *value_scales; /* int8: V scale of each token, 0 where there is none */
  float *maximum, *sum;      /* [rows], running */
  float *alpha;              /* [rows], out */
  float *weight_scale;       /* [rows], out, int8 */
} SoftmaxRun;

/* Tokens that one step of packing takes. */
#define TOKEN_UNIT(dtype) (IS_INT8(dtype) ? 16 : 8)

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

/* Weights times V scales as integers of the row's largest, in place of the scores. */
INLINE void quantise_weights(const int dtype, const int rows, const SoftmaxRun *run, const Vec *peak) {
  const uint32_t n = run->tokens, stride = run->stride;
  const float *s = run->scores;
  char *w = run->weights;
  /* Pairs: 127 * limit * tokens stays within int32. */
  const float limit = dtype == KV_INT8_DOT ? 255.0f : n <= 516 ? 32767.0f : (float)(2147483647u / 127 / n);
  Vec inverse[MAX_GROUP];
  UNROLL for (int m = 0; m < rows; m++) {
    float largest = max_lane(peak[m]);
    inverse[m] = SPLAT(largest > 0x1p-110f ? limit / largest : 0);
    run->weight_scale[m] = largest / limit;
  }
  ROLLED for (uint32_t i = 0; i < n; i += dtype == KV_INT8_DOT ? 16 : 8) {
    Vec packed[MAX_GROUP];
    UNROLL for (int m = 0; m < rows; m++) {
      const float *x = s + m * stride + i;
      Vec words[2];
      UNROLL for (int j = 0; j < (dtype == KV_INT8_DOT ? 2 : 1); j++)
        words[j] = wasm_i16x8_narrow_i32x4(round_to_int(MUL(LOAD(x + 8 * j), inverse[m])),
                                           round_to_int(MUL(LOAD(x + 8 * j + 4), inverse[m])));
      packed[m] = dtype == KV_INT8_DOT ? wasm_u8x16_narrow_i16x8(words[0], words[1]) : words[0];
    }
    w = pack_rows(rows, packed, w);
  }
}

INLINE void softmax_tile(const int dtype, const int rows, const SoftmaxRun *run) {
  const uint32_t n = run->tokens, stride = run->stride;
  float *s = run->scores;
  Vec top[MAX_GROUP], sum[MAX_GROUP], peak[MAX_GROUP];
  UNROLL for (int m = 0; m < rows; m++) {
    Vec a = SPLAT(MASKED), b = a;
    ROLLED for (uint32_t i = 0; i < n; i += 8) {
      a = MAX(a, LOAD(s + m * stride + i));
      b = MAX(b, LOAD(s + m * stride + i + 4));
    }
    float before = run->maximum[m], here = max_lane(MAX(a, b)), now = here > before ? here : before;
    run->maximum[m] = now;
    run->alpha[m] = wasm_f32x4_extract_lane(exp2_nonpositive(SPLAT(before - now)), 0);
    top[m] = SPLAT(now);
    sum[m] = peak[m] = ZERO;
  }
  char *w = run->weights;
  ROLLED for (uint32_t i = 0; i < n; i += 4) {
    Vec e[MAX_GROUP], scale = IS_INT8(dtype) ? LOAD(run->value_scales + i) : SPLAT(F16_FACTOR);
    UNROLL for (int m = 0; m < rows; m++) {
      e[m] = exp2_nonpositive(SUB(LOAD(s + m * stride + i), top[m]));
      sum[m] = ADD(sum[m], e[m]);
      PIN(sum[m]);
      if (IS_INT8(dtype)) {
        /* Relative to the largest with its V scale, not to 1: an attention sink of tiny V costs no precision. */
        Vec y = MUL(e[m], scale);
        peak[m] = MAX(peak[m], y);
        STORE(s + m * stride + i, y);
      } else if (dtype == KV_F16) {
        e[m] = MUL(e[m], scale);
      }
    }
    if (!IS_INT8(dtype)) w = pack_rows(rows, e, w);
  }
  UNROLL for (int m = 0; m < rows; m++) run->sum[m] = run->sum[m] * run->alpha[m] + add_lanes(sum[m]);
  if (IS_INT8(dtype)) quantise_weights(dtype, rows, run, peak);
}

typedef void SoftmaxFn(const SoftmaxRun *run);
#define SOFTMAX(name, dtype, rows) \
  NOINLINE void name(const SoftmaxRun *run) { softmax_tile(dtype, rows, run); }
#define SOFTMAXES(name, dtype)                                                                           \
  SOFTMAX(name##_1, dtype, 1) SOFTMAX(name##_2, dtype, 2) SOFTMAX(name##_3, dtype, 3)                    \
  SOFTMAX(name##_4, dtype, 4) SOFTMAX(name##_5, dtype, 5) SOFTMAX(name##_6, dtype, 6)                    \
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
