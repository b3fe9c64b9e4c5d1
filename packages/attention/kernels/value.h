/*
 * Values: o = o * alpha + p V for 1 to 4 rows and one panel of 8 dimensions, over the tokens of 1, 2 or 4 pages at once; the
 * pages share the accumulators. Weights are packed [tokens][rows] (int8: [token pairs][rows][2] as int16).
 */
#pragma once
#include "layout.h"

typedef struct {
  const char *values[MAX_PAGES]; /* V of each page */
  uint32_t tokens;               /* of each page; exact for f32, else a multiple of 8 (the weights beyond the end are 0) */
  uint32_t weight_page_bytes;    /* packed weights of one page */
  uint32_t out_stride;           /* floats between output rows */
} ValueRun;

INLINE void value_step(const int dtype, const int rows, const int sets, const int set, Vec acc[][4][2], const char *p,
                       const char *v) {
  if (dtype == KV_INT8) {
    Vec raw = LOAD(v), low = wasm_i16x8_extend_low_i8x16(raw), high = wasm_i16x8_extend_high_i8x16(raw);
    UNROLL for (int m = 0; m < rows; m++) {
      Vec x = SPLAT_AT(p + 4 * m), *c = acc[set % sets][m];
      c[0] = wasm_i32x4_add(c[0], wasm_i32x4_dot_i16x8(low, x));
      c[1] = wasm_i32x4_add(c[1], wasm_i32x4_dot_i16x8(high, x));
      PIN(c[0]);
      PIN(c[1]);
    }
    return;
  }
  Vec raw0 = LOAD(v), raw1 = LOAD(v + 16);
  UNROLL for (int half = 0; half < (dtype == KV_F16 ? 2 : 1); half++) {
    Vec v0 = dtype == KV_F32 ? raw0 : half ? f16_high(raw0) : f16_low(raw0);
    Vec v1 = dtype == KV_F32 ? raw1 : half ? f16_high(raw1) : f16_low(raw1);
    UNROLL for (int m = 0; m < rows; m++) {
      Vec x = SPLAT_AT(p + 4 * (rows * half + m)), *c = acc[(dtype == KV_F16 ? 2 * set + half : set) % sets][m];
      c[0] = MADD(x, v0, c[0]);
      c[1] = MADD(x, v1, c[1]);
      PIN(c[0]);
      PIN(c[1]);
    }
  }
}

INLINE void value_tile(const int dtype, const int rows, const int pages, const int sets, const int unroll, const char *p,
                       const ValueRun *run, uint32_t panel, float *o, const float *alpha, const float *weight_scale) {
  const int tokens_a_step = dtype == KV_F32 ? 1 : 2;
  const int p_bytes = dtype == KV_F16 ? 8 * rows : 4 * rows, v_bytes = dtype == KV_INT8 ? 16 : 32; /* of a step */
  const uint32_t p_page = run->weight_page_bytes, stride = run->out_stride;
  const char *v[MAX_PAGES];
  UNROLL for (int n = 0; n < pages; n++) v[n] = run->values[n] + panel;
  Vec acc[4][4][2];
  UNROLL for (int s = 0; s < sets; s++) UNROLL for (int m = 0; m < rows; m++) acc[s][m][0] = acc[s][m][1] = ZERO;
  uint32_t steps = run->tokens / tokens_a_step;
  const char *end = v[0] + steps / unroll * unroll * v_bytes;
  ROLLED while (v[0] != end) {
    UNROLL for (int n = 0; n < pages; n++) {
      UNROLL for (int u = 0; u < unroll; u++)
        value_step(dtype, rows, sets, n * unroll + u, acc, p + n * p_page + u * p_bytes, v[n] + u * v_bytes);
      v[n] += unroll * v_bytes;
    }
    p += unroll * p_bytes;
  }
  if (dtype == KV_F32 && pages == 1) {
    ROLLED for (steps %= unroll; steps > 0; steps--, p += p_bytes, v[0] += v_bytes)
      value_step(dtype, rows, sets, 0, acc, p, v[0]);
  }
  UNROLL for (int m = 0; m < rows; m++) {
    Vec decay = SPLAT_AT(alpha + m);
    UNROLL for (int j = 0; j < 2; j++) {
      Vec sum = acc[0][m][j];
      UNROLL for (int s = 1; s < sets; s++)
        sum = dtype == KV_INT8 ? wasm_i32x4_add(sum, acc[s][m][j]) : ADD(sum, acc[s][m][j]);
      if (dtype == KV_INT8) sum = MUL(wasm_f32x4_convert_i32x4(sum), SPLAT_AT(weight_scale + m));
      STORE(o + m * stride + 4 * j, MADD(LOAD(o + m * stride + 4 * j), decay, sum));
    }
  }
}

typedef void ValueFn(const char *p, const ValueRun *run, uint32_t panel, float *o, const float *alpha,
                     const float *weight_scale);
#define VALUE(name, dtype, rows, pages, sets, unroll)                                                              \
  NOINLINE void name(const char *p, const ValueRun *run, uint32_t panel, float *o, const float *alpha,             \
                     const float *weight_scale) {                                                                  \
    value_tile(dtype, rows, pages, sets, unroll, p, run, panel, o, alpha, weight_scale);                           \
  }
#define VALUE_ROWS(name, dtype, pages, unroll1, unroll)                                                       \
  VALUE(name##_1, dtype, 1, pages, 4, unroll1) VALUE(name##_2, dtype, 2, pages, 2, unroll)                    \
  VALUE(name##_3, dtype, 3, pages, 1, unroll) VALUE(name##_4, dtype, 4, pages, 1, unroll)
VALUE_ROWS(value_f32_p1, KV_F32, 1, 4, 4) VALUE_ROWS(value_f32_p2, KV_F32, 2, 4, 4) VALUE_ROWS(value_f32_p4, KV_F32, 4, 4, 4)
VALUE_ROWS(value_f16_p1, KV_F16, 1, 2, 2) VALUE_ROWS(value_f16_p2, KV_F16, 2, 2, 2) VALUE_ROWS(value_f16_p4, KV_F16, 4, 1, 1)
VALUE_ROWS(value_int8_p1, KV_INT8, 1, 4, 4) VALUE_ROWS(value_int8_p2, KV_INT8, 2, 4, 4) VALUE_ROWS(value_int8_p4, KV_INT8, 4, 4, 4)

/* [dtype][log2 pages][rows - 1] */
#define FOUR_ROWS(name) {name##_1, name##_2, name##_3, name##_4}
static ValueFn *const value_fns[3][3][4] = {
    {FOUR_ROWS(value_f32_p1), FOUR_ROWS(value_f32_p2), FOUR_ROWS(value_f32_p4)},
    {FOUR_ROWS(value_f16_p1), FOUR_ROWS(value_f16_p2), FOUR_ROWS(value_f16_p4)},
    {FOUR_ROWS(value_int8_p1), FOUR_ROWS(value_int8_p2), FOUR_ROWS(value_int8_p4)},
};
