/*
 * Scores: 1 to 4 query rows against four tokens each of 2 or 4 streams at once. A stream is a page, or every other token quad
 * of one page. The query is packed [k][rows], so that there is one load stream beside the KV streams; the loop over the
 * dimension is rolled and reads every stream in order.
 */
#pragma once
#include "layout.h"

typedef struct {
  const char *keys[4];    /* first quad of each stream */
  const float *scales[4]; /* int8: K scales of those tokens */
  float *scores[4];       /* where their scores go, row 0 */
  uint32_t quad_bytes;    /* 4 * dim elements */
  uint32_t key_skip;      /* bytes from the end of a quad to the stream's next one */
  uint32_t token_step;    /* tokens from one quad of a stream to the next */
  uint32_t steps;
  uint32_t row_stride;    /* floats between the score rows */
} ScoreRun;

/* rows x streams multiply-adds of one 4-token vector per stream; the query operand is a 32-bit splat. */
INLINE void score_columns(const int integer, const int rows, const int streams, Vec acc[][4], const char *q,
                          const Vec *k) {
  UNROLL for (int m = 0; m < rows; m++) {
    Vec x = SPLAT_AT(q + 4 * m);
    UNROLL for (int j = 0; j < streams; j++) {
      acc[m][j] = integer ? wasm_i32x4_add(acc[m][j], wasm_i32x4_dot_i16x8(k[j], x)) : MADD(x, k[j], acc[m][j]);
      PIN(acc[m][j]);
    }
  }
}

/* `sets` accumulator sets break the chain of dependent adds where rows and streams are few. */
INLINE void score_tile(const int dtype, const int rows, const int streams, const int sets, const int unroll,
                       const char *q, const float *q_scale, const ScoreRun *run) {
  const char *key[4];
  const float *scale[4];
  float *out[4];
  UNROLL for (int j = 0; j < streams; j++) key[j] = run->keys[j], scale[j] = run->scales[j], out[j] = run->scores[j];
  const uint32_t skip = run->key_skip, step = run->token_step, stride = run->row_stride;
  const uint32_t quad = run->quad_bytes;
  const int split = dtype == KV_F32 ? 1 : 2; /* vectors that 16 bytes of K expand to */
  ROLLED for (uint32_t left = run->steps; left > 0; left--) {
    Vec acc[4][4][4];
    UNROLL for (int s = 0; s < sets; s++) UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < streams; j++)
      acc[s][m][j] = ZERO;
    const char *a = q, *end = key[0] + quad;
    ROLLED do {
      UNROLL for (int u = 0; u < unroll; u++) {
        Vec raw[4], k[4];
        const char *x = a + 4 * rows * split * u;
        UNROLL for (int j = 0; j < streams; j++) raw[j] = LOAD(key[j] + 16 * u);
        UNROLL for (int half = 0; half < split; half++) {
          UNROLL for (int j = 0; j < streams; j++)
            k[j] = dtype == KV_F32   ? raw[j]
                   : dtype == KV_F16 ? (half ? f16_high(raw[j]) : f16_low(raw[j]))
                                     : (half ? wasm_i16x8_extend_high_i8x16(raw[j]) : wasm_i16x8_extend_low_i8x16(raw[j]));
          score_columns(dtype == KV_INT8, rows, streams, acc[(split * u + half) % sets], x + 4 * rows * half, k);
        }
      }
      a += 4 * rows * split * unroll;
      UNROLL for (int j = 0; j < streams; j++) key[j] += 16 * unroll;
    } while (key[0] != end);
    UNROLL for (int j = 0; j < streams; j++) {
      UNROLL for (int m = 0; m < rows; m++) {
        Vec sum = acc[0][m][j];
        UNROLL for (int s = 1; s < sets; s++)
          sum = dtype == KV_INT8 ? wasm_i32x4_add(sum, acc[s][m][j]) : ADD(sum, acc[s][m][j]);
        if (dtype == KV_INT8) sum = MUL(MUL(wasm_f32x4_convert_i32x4(sum), SPLAT_AT(q_scale + m)), LOAD(scale[j]));
        STORE(out[j] + m * stride, sum);
      }
      key[j] += skip;
      out[j] += step;
      if (dtype == KV_INT8) scale[j] += step;
    }
  }
}

typedef void ScoreFn(const char *q, const float *q_scale, const ScoreRun *run);
#define SCORE(name, dtype, rows, streams, sets, unroll)                               \
  NOINLINE void name(const char *q, const float *q_scale, const ScoreRun *run) {      \
    score_tile(dtype, rows, streams, sets, unroll, q, q_scale, run);                  \
  }
SCORE(score_f32_1x2, KV_F32, 1, 2, 4, 4) SCORE(score_f32_1x4, KV_F32, 1, 4, 2, 4)
SCORE(score_f32_2x2, KV_F32, 2, 2, 2, 4) SCORE(score_f32_3x2, KV_F32, 3, 2, 1, 4) SCORE(score_f32_4x2, KV_F32, 4, 2, 1, 4)
/* f16 with four streams: unrolled twice the splats spill and the rate halves. */
SCORE(score_f16_1x2, KV_F16, 1, 2, 4, 2) SCORE(score_f16_1x4, KV_F16, 1, 4, 2, 1)
SCORE(score_f16_2x2, KV_F16, 2, 2, 2, 2) SCORE(score_f16_3x2, KV_F16, 3, 2, 1, 2) SCORE(score_f16_4x2, KV_F16, 4, 2, 1, 2)
SCORE(score_int8_1x2, KV_INT8, 1, 2, 2, 2) SCORE(score_int8_1x4, KV_INT8, 1, 4, 2, 1)
SCORE(score_int8_2x2, KV_INT8, 2, 2, 2, 2) SCORE(score_int8_3x2, KV_INT8, 3, 2, 1, 2) SCORE(score_int8_4x2, KV_INT8, 4, 2, 1, 2)

/* [dtype][rows - 1], two streams; and one row against four streams. */
static ScoreFn *const score_fns[3][4] = {
    {score_f32_1x2, score_f32_2x2, score_f32_3x2, score_f32_4x2},
    {score_f16_1x2, score_f16_2x2, score_f16_3x2, score_f16_4x2},
    {score_int8_1x2, score_int8_2x2, score_int8_3x2, score_int8_4x2},
};
static ScoreFn *const score_four_pages_fns[3] = {score_f32_1x4, score_f16_1x4, score_int8_1x4};
