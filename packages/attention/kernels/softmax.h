/*
 * Online softmax over one tile of scores (base 2) of 1 to 4 rows: raises the running maximum, returns by how much what was
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
  uint32_t tokens; /* a multiple of 8 */
  char *weights;   /* packed; up to 12 bytes beyond the end are overwritten */
  const float *value_scales; /* int8: V scale of each token, 0 where there is none */
  float *maximum, *sum;      /* [rows], running */
  float *alpha;              /* [rows], out */
  float *weight_scale;       /* [rows], out, int8 */
} SoftmaxRun;

INLINE void softmax_tile(const int dtype, const int rows, const SoftmaxRun *run) {
  const uint32_t n = run->tokens, stride = run->stride;
  float *s = run->scores;
  Vec top[4], sum[4], peak[4];
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
  if (dtype != KV_INT8) {
    ROLLED for (uint32_t i = 0; i < n; i += 4, w += 16 * rows) {
      Vec e[4], column[4];
      UNROLL for (int m = 0; m < 4; m++) {
        if (m >= rows) {
          e[m] = ZERO;
          continue;
        }
        e[m] = exp2_nonpositive(SUB(LOAD(s + m * stride + i), top[m]));
        sum[m] = ADD(sum[m], e[m]);
        PIN(sum[m]);
        if (dtype == KV_F16) e[m] = MUL(e[m], SPLAT(F16_FACTOR));
      }
      if (rows == 1) {
        STORE(w, e[0]);
      } else {
        transpose4(e, column);
        /* With fewer than four rows each store overwrites the unused lanes of the one before. */
        UNROLL for (int t = 0; t < 4; t++) STORE(w + 4 * rows * t, column[t]);
      }
    }
  } else {
    /* Weights carry the V scales and are int16 of the row's largest, not of 1: an attention sink of tiny V costs no precision. */
    ROLLED for (uint32_t i = 0; i < n; i += 4) {
      Vec vs = LOAD(run->value_scales + i);
      UNROLL for (int m = 0; m < rows; m++) {
        Vec e = exp2_nonpositive(SUB(LOAD(s + m * stride + i), top[m])), y = MUL(e, vs);
        sum[m] = ADD(sum[m], e);
        peak[m] = MAX(peak[m], y);
        STORE(s + m * stride + i, y);
      }
    }
    /* 127 * limit * tokens stays within int32. */
    const float limit = n <= 516 ? 32767.0f : (float)(2147483647u / 127 / n);
    Vec inverse[4];
    UNROLL for (int m = 0; m < rows; m++) {
      float largest = max_lane(peak[m]);
      inverse[m] = SPLAT(largest > 0x1p-110f ? limit / largest : 0);
      run->weight_scale[m] = largest / limit;
    }
    ROLLED for (uint32_t i = 0; i < n; i += 8, w += 16 * rows) {
      Vec pairs[4], column[4];
      UNROLL for (int m = 0; m < 4; m++)
        pairs[m] = m >= rows ? ZERO
                             : wasm_i16x8_narrow_i32x4(round_to_int(MUL(LOAD(s + m * stride + i), inverse[m])),
                                                       round_to_int(MUL(LOAD(s + m * stride + i + 4), inverse[m])));
      if (rows == 1) {
        STORE(w, pairs[0]);
      } else {
        transpose4(pairs, column);
        UNROLL for (int t = 0; t < 4; t++) STORE(w + 4 * rows * t, column[t]);
      }
    }
  }
  UNROLL for (int m = 0; m < rows; m++) run->sum[m] = run->sum[m] * run->alpha[m] + add_lanes(sum[m]);
}

typedef void SoftmaxFn(const SoftmaxRun *run);
#define SOFTMAX(name, dtype, rows) \
  NOINLINE void name(const SoftmaxRun *run) { softmax_tile(dtype, rows, run); }
SOFTMAX(softmax_f32_1, KV_F32, 1) SOFTMAX(softmax_f32_2, KV_F32, 2) SOFTMAX(softmax_f32_3, KV_F32, 3) SOFTMAX(softmax_f32_4, KV_F32, 4)
SOFTMAX(softmax_f16_1, KV_F16, 1) SOFTMAX(softmax_f16_2, KV_F16, 2) SOFTMAX(softmax_f16_3, KV_F16, 3) SOFTMAX(softmax_f16_4, KV_F16, 4)
SOFTMAX(softmax_int8_1, KV_INT8, 1) SOFTMAX(softmax_int8_2, KV_INT8, 2) SOFTMAX(softmax_int8_3, KV_INT8, 3) SOFTMAX(softmax_int8_4, KV_INT8, 4)

/* [dtype][rows - 1] */
static SoftmaxFn *const softmax_fns[3][4] = {
    {softmax_f32_1, softmax_f32_2, softmax_f32_3, softmax_f32_4},
    {softmax_f16_1, softmax_f16_2, softmax_f16_3, softmax_f16_4},
    {softmax_int8_1, softmax_int8_2, softmax_int8_3, softmax_int8_4},
};
