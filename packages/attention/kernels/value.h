/*
 * Values: o = o * decay + p V for 1 to 6 rows and a panel of 8 dimensions, over tokens of 1, 2 or 4 pages at once. Weights are
 * packed [tokens][rows] (int8: [token pairs][rows][2] as int16, or [token quads][rows][4] as bytes). Sums have one order
 * whatever the tile's shape: for groups of up to MHA_GROUP heads a chain for each page, as one row then takes four pages at
 * once and needs their chains to hide the latency of the adds; for larger ones a chain for each pair of pages, a step's tokens
 * of one, then of the other, so that four rows take two pages at once.
 */
#pragma once
#include "layout.h"

#define MHA_GROUP 3

typedef struct {
  const char *values[4];  /* first token of each page in the panel */
  const char *weights[4]; /* of it, packed */
  uint32_t tokens;        /* of each page; of two pages in one chain a multiple of 4 (int8: of 16) */
  uint32_t rest[2];       /* two pages in one chain: tokens of each beyond those; of the second less than 4 */
  uint32_t out_stride;    /* floats between output rows */
  float *output;
  const float *decay, *weight_scale; /* [rows] */
} ValueRun;

/* Tokens in the 32-bit items of packed weights, bytes of V for each item, and items of a step. */
#define ITEM_TOKENS(dtype) ((dtype) == KV_INT8_DOT ? 4 : (dtype) == KV_INT8_PAIRS ? 2 : 1)
#define ITEM_BYTES(dtype) (IS_HALF(dtype) || (dtype) == KV_INT8_PAIRS ? 16 : 32)
#define STEP_ITEMS(dtype) ((dtype) == KV_F32 || (dtype) == KV_INT8_DOT ? 4 : 2)

INLINE void value_step(const int dtype, const int rows, const HalfBits *bits, Vec acc[][2], const char *p, const char *v) {
  Vec v0 = LOAD(v), v1 = ITEM_BYTES(dtype) == 32 ? LOAD(v + 16) : v0;
  if (dtype == KV_INT8_PAIRS) {
    v1 = wasm_i16x8_extend_high_i8x16(v0);
    v0 = wasm_i16x8_extend_low_i8x16(v0);
  } else if (IS_HALF(dtype)) {
    v1 = half_high(dtype, bits, v0);
    v0 = half_low(dtype, bits, v0);
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

INLINE void value_items(const int dtype, const int rows, const HalfBits *bits, Vec acc[][2], const char **p, const char **v, uint32_t items) {
  ROLLED for (; items > 0; items--, *v += ITEM_BYTES(dtype), *p += 4 * rows) value_step(dtype, rows, bits, acc, *p, *v);
}

INLINE void value_tile(const int dtype, const int rows, const int pages, const int chains, const int unroll,
                       const ValueRun *run, uint32_t dim) {
  const int items = STEP_ITEMS(dtype), v_item = ITEM_BYTES(dtype);
  const uint32_t stride = run->out_stride, all = run->tokens / ITEM_TOKENS(dtype);
  const HalfBits bits = half_bits(dtype);
  const char *v[4], *p[4];
  Vec acc[4][MAX_GROUP][2];
  UNROLL for (int n = 0; n < pages; n++) p[n] = run->weights[n], v[n] = run->values[n];
  UNROLL for (int i = 0; i < chains; i++) UNROLL for (int m = 0; m < rows; m++) acc[i][m][0] = acc[i][m][1] = ZERO;
  const char *end = v[0] + all / (items * unroll) * (items * unroll) * v_item;
  ROLLED while (v[0] != end) {
    UNROLL for (int u = 0; u < unroll; u++) UNROLL for (int n = 0; n < pages; n++) UNROLL for (int i = 0; i < items; i++) {
      const int at = u * items + i;
      value_step(dtype, rows, &bits, acc[n * chains / pages], p[n] + 4 * rows * at, v[n] + v_item * at);
    }
    UNROLL for (int n = 0; n < pages; n++) v[n] += items * unroll * v_item, p[n] += 4 * rows * items * unroll;
  }
  if (pages == 1) value_items(dtype, rows, &bits, acc[0], p, v, all % (items * unroll));
  if (pages == 2 && chains == 1) {
    if (all % (items * unroll) >= (uint32_t)items)
      for (int n = 0; n < 2; n++) value_items(dtype, rows, &bits, acc[0], p + n, v + n, items);
    uint32_t rest = run->rest[0] / ITEM_TOKENS(dtype);
    if (dtype == KV_F32 && run->rest[1] > 0) {
      value_items(dtype, rows, &bits, acc[0], p, v, items);
      value_items(dtype, rows, &bits, acc[0], p + 1, v + 1, run->rest[1]);
      rest -= items;
    }
    value_items(dtype, rows, &bits, acc[0], p, v, rest);
  }
  UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < 2; j++) {
    float *to = run->output + m * stride + dim + 4 * j;
    Vec sum = LOAD(to), decay = SPLAT_AT(run->decay + m);
    UNROLL for (int i = 0; i < chains; i++) {
      if (!IS_INT8(dtype)) sum = i == 0 ? MADD(sum, decay, acc[i][m][j]) : ADD(sum, acc[i][m][j]);
      else sum = MADD(wasm_f32x4_convert_i32x4(acc[i][m][j]), SPLAT_AT(run->weight_scale + m), i == 0 ? MUL(sum, decay) : sum);
    }
    STORE(to, sum);
  }
}

typedef void ValueFn(const ValueRun *run, uint32_t dim);
#define VALUE(name, dtype, rows, pages, chains, unroll) \
  NOINLINE void name(const ValueRun *run, uint32_t dim) { value_tile(dtype, rows, pages, chains, unroll, run, dim); }
#define VALUES(name, dtype, unroll)                                                                            \
  VALUE(name##_1, dtype, 1, 1, 1, unroll) VALUE(name##_2, dtype, 2, 1, 1, unroll)                              \
  VALUE(name##_3, dtype, 3, 1, 1, unroll) VALUE(name##_4, dtype, 4, 1, 1, unroll)                              \
  VALUE(name##_5, dtype, 5, 1, 1, unroll) VALUE(name##_6, dtype, 6, 1, 1, unroll)                              \
  VALUE(name##_1_pair, dtype, 1, 2, 1, unroll) VALUE(name##_2_pair, dtype, 2, 2, 1, unroll)                    \
  VALUE(name##_3_pair, dtype, 3, 2, 1, unroll)                                                                 \
  VALUE(name##_4_pair, dtype, 4, 2, 1, unroll) VALUE(name##_5_pair, dtype, 5, 2, 1, unroll)                    \
  VALUE(name##_6_pair, dtype, 6, 2, 1, unroll)                                                                 \
  VALUE(name##_1_apart, dtype, 1, 4, 4, 1) VALUE(name##_2_apart, dtype, 2, 2, 2, 1)                            \
  VALUE(name##_3_apart, dtype, 3, 2, 2, 1)                                                                     \
  static ValueFn *const name##_fns[3][MAX_GROUP] = {                                                           \
      {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6},                                            \
      {name##_1_pair, name##_2_pair, name##_3_pair, name##_4_pair, name##_5_pair, name##_6_pair},                          \
      {name##_1_apart, name##_2_apart, name##_3_apart}};

/* Of value_fns: one page; two pages in one chain; four pages (one row) or two (two or three), each with a chain. */
enum { VALUE_PAGE = 0, VALUE_PAIR = 1, VALUE_APART = 2 };
VALUES(value_f32, KV_F32, 2)
VALUES(value_f16, KV_F16, 2)
VALUES(value_bf16, KV_BF16, 2)
VALUES(value_pairs, KV_INT8_PAIRS, 1)
#if HAS_DOT
VALUES(value_dot, KV_INT8_DOT, 1)
#endif

/* [dtype][VALUE_][rows - 1] */
static ValueFn *const (*const value_fns[KV_DTYPES])[MAX_GROUP] = {value_f32_fns, value_f16_fns, value_bf16_fns,
                                                                 value_pairs_fns,
#if HAS_DOT
                                                                 value_dot_fns
#endif
};
