/*
 * Values: o = o * decay + p V for 1 to 6 rows and a panel of 8 dimensions, over tokens of 1, 2 or 4 pages at once. Weights are packed
 * [tokens][rows] (int8: [token pairs][rows][2] as int16, or [token quads][rows][4] as bytes). Sums have one order whatever the
 * tile's shape: a step's tokens of one page of a pair, then of the other, and so on. A tile of four pages has a chain for
 * each of its two pairs, which one row adds to at the same time and more rows one after the other.
 */
#pragma once
#include "layout.h"

typedef struct {
  const char *values[4];  /* first token of each page in the panel */
  const char *weights[4]; /* of it, packed */
  uint32_t tokens;        /* of each page; a multiple of 4 unless there is one page of f32 (int8: of 16) */
  uint32_t out_stride;    /* floats between output rows */
  float *output[2];       /* of each pair; int8: both in [0] */
  const float *decay, *weight_scale; /* [rows] */
} ValueRun;

/* Tokens in the 32-bit items of packed weights, bytes of V for each item, and items of a step. */
#define ITEM_TOKENS(dtype) ((dtype) == KV_INT8_DOT ? 4 : (dtype) == KV_INT8_PAIRS ? 2 : 1)
#define ITEM_BYTES(dtype) (IS_HALF(dtype) || (dtype) == KV_INT8_PAIRS ? 16 : 32)
#define STEP_ITEMS(dtype) ((dtype) == KV_F32 || (dtype) == KV_INT8_DOT ? 4 : 2)

INLINE void value_step(const int dtype, const int rows, Vec acc[][2], const char *p, const char *v) {
  Vec v0 = LOAD(v), v1 = ITEM_BYTES(dtype) == 32 ? LOAD(v + 16) : v0;
  if (dtype == KV_INT8_PAIRS) {
    v1 = wasm_i16x8_extend_high_i8x16(v0);
    v0 = wasm_i16x8_extend_low_i8x16(v0);
  } else if (IS_HALF(dtype)) {
    v1 = half_high(dtype, v0);
    v0 = half_low(dtype, v0);
  }
  UNROLL for (int m = 0; m < rows; m++) {
    Vec x = SPLAT_AT(p + 4 * m), *c = acc[m];
    UNROLL for (int j = 0; j < 2; j++) {
      Vec y = j ? v1 : v0;
      c[j] = dtype == KV_INT8_DOT     ? DOT(y, x, c[j])
             : dtype == KV_INT8_PAIRS ? wasm_i32x4_add(c[j], wasm_i32x4_dot_i16x8(y, x))
                                      : MADD(x, y, c[j]);
      PIN(c[j]);
    }
  }
}

INLINE void value_tile(const int dtype, const int rows, const int pages, const int unroll, const ValueRun *run,
                       uint32_t dim) {
  const int chains = pages > 2 ? 2 : 1, items = STEP_ITEMS(dtype), v_item = ITEM_BYTES(dtype);
  const uint32_t stride = run->out_stride, all = run->tokens / ITEM_TOKENS(dtype);
  const char *v[4], *p[4];
  Vec acc[2][MAX_GROUP][2];
  UNROLL for (int n = 0; n < pages; n++) p[n] = run->weights[n], v[n] = run->values[n];
  UNROLL for (int i = 0; i < chains; i++) UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < 2; j++) {
    const float *from = run->output[i] + m * stride + dim + 4 * j;
    acc[i][m][j] = IS_INT8(dtype) ? ZERO : i == 0 ? MUL(LOAD(from), SPLAT_AT(run->decay + m)) : LOAD(from);
  }
  const char *end = v[0] + all / (items * unroll) * (items * unroll) * v_item;
  ROLLED while (v[0] != end) {
    UNROLL for (int u = 0; u < unroll; u++) UNROLL for (int n = 0; n < pages; n++) UNROLL for (int i = 0; i < items; i++) {
      const int at = u * items + i;
      value_step(dtype, rows, acc[n / 2], p[n] + 4 * rows * at, v[n] + v_item * at);
    }
    UNROLL for (int n = 0; n < pages; n++) v[n] += items * unroll * v_item, p[n] += 4 * rows * items * unroll;
  }
  if (pages == 1) {
    ROLLED for (uint32_t left = all % (items * unroll); left > 0; left--, v[0] += v_item, p[0] += 4 * rows)
      value_step(dtype, rows, acc[0], p[0], v[0]);
  }
  UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < 2; j++) {
    const uint32_t at = m * stride + dim + 4 * j;
    if (IS_INT8(dtype)) {
      Vec sum = MUL(LOAD(run->output[0] + at), SPLAT_AT(run->decay + m));
      UNROLL for (int i = 0; i < chains; i++)
        sum = MADD(wasm_f32x4_convert_i32x4(acc[i][m][j]), SPLAT_AT(run->weight_scale + m), sum);
      STORE(run->output[0] + at, sum);
    } else {
      UNROLL for (int i = 0; i < chains; i++) STORE(run->output[i] + at, acc[i][m][j]);
    }
  }
}

typedef void ValueFn(const ValueRun *run, uint32_t dim);
#define VALUE(name, dtype, rows, pages, unroll) \
  NOINLINE void name(const ValueRun *run, uint32_t dim) { value_tile(dtype, rows, pages, unroll, run, dim); }
#define VALUES(name, dtype, unroll)                                                                          \
  VALUE(name##_1x1, dtype, 1, 1, unroll) VALUE(name##_1x2, dtype, 1, 2, unroll) VALUE(name##_1x4, dtype, 1, 4, 1)  \
  VALUE(name##_2x1, dtype, 2, 1, unroll) VALUE(name##_2x2, dtype, 2, 2, unroll) VALUE(name##_2x4, dtype, 2, 4, 1)  \
  VALUE(name##_3x1, dtype, 3, 1, unroll) VALUE(name##_3x2, dtype, 3, 2, unroll) VALUE(name##_3x4, dtype, 3, 4, 1)  \
  VALUE(name##_4x1, dtype, 4, 1, unroll) VALUE(name##_4x2, dtype, 4, 2, unroll)                              \
  VALUE(name##_5x1, dtype, 5, 1, unroll) VALUE(name##_5x2, dtype, 5, 2, unroll)                              \
  VALUE(name##_6x1, dtype, 6, 1, unroll) VALUE(name##_6x2, dtype, 6, 2, unroll)                              \
  static ValueFn *const name##_fns[3][MAX_GROUP] = {                                                         \
      {name##_1x1, name##_2x1, name##_3x1, name##_4x1, name##_5x1, name##_6x1},                              \
      {name##_1x2, name##_2x2, name##_3x2, name##_4x2, name##_5x2, name##_6x2},                              \
      {name##_1x4, name##_2x4, name##_3x4}};
VALUES(value_f32, KV_F32, 1)
VALUES(value_f16, KV_F16, 2)
VALUES(value_bf16, KV_BF16, 2)
VALUES(value_pairs, KV_INT8_PAIRS, 1)
#if HAS_DOT
VALUES(value_dot, KV_INT8_DOT, 1)
#endif

/* [dtype][log2 pages][rows - 1] */
static ValueFn *const (*const value_fns[KV_DTYPES])[MAX_GROUP] = {value_f32_fns, value_f16_fns, value_bf16_fns,
                                                                 value_pairs_fns,
#if HAS_DOT
                                                                 value_dot_fns
#endif
};
