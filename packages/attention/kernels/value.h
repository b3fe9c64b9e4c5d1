/*
 * Values: sums += p V for 1 to 6 rows and all panels of 8 dimensions over tokens of 1, 2 or 4 runs at once. Weights are packed
 * [tokens][rows] (int8: [token pairs][rows][2] as int16, or [token quads][rows][4] as bytes). Sums have one order whatever is
 * computed beside them: for groups of up to MHA_GROUP heads a chain for each run, as one row then takes four runs at once and
 * needs their chains to hide the latency of the adds; for larger ones a chain for each tile, a step's tokens of one run, then of
 * the next, so that four rows take two runs at once. Chains go on in memory, so it doesn't matter how a walk is cut.
 */
#pragma once
#include "layout.h"

typedef struct {
  const char *const *values[4]; /* pieces of each stream */
  const char *weights[4];       /* of its first token, packed */
  char *sums[4];                /* of its chain, or [0] of the one that all of them add to: f32 (int8: i32) [rows][dim] */
  uint32_t skip;                /* tokens of the first piece that are passed over */
  uint32_t tokens;              /* of each stream, a multiple of 16, as skip */
  uint32_t piece_tokens;
  uint32_t panel_bytes;         /* from a panel of V to the next one */
  uint32_t dim;
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

INLINE void value_tile(const int dtype, const int rows, const int streams, const int chains, const int unroll,
                       const ValueRun *run) {
  const int items = STEP_ITEMS(dtype), v_item = ITEM_BYTES(dtype);
  const uint32_t dim = run->dim;
  const HalfBits bits = half_bits(dtype);
  ROLLED for (uint32_t d = 0, panel = 0; d < dim; d += 8, panel += run->panel_bytes) {
    Vec acc[4][MAX_GROUP][2];
    const char *v[4], *p[4];
    UNROLL for (int n = 0; n < streams; n++) p[n] = run->weights[n];
    UNROLL for (int i = 0; i < chains; i++) UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < 2; j++)
      acc[i][m][j] = LOAD(run->sums[i] + 4 * (m * dim + d) + 16 * j);
    ROLLED for (uint32_t piece = 0, skip = run->skip, rest = run->tokens; rest > 0; piece++, skip = 0) {
      const uint32_t tokens = min_u32(run->piece_tokens - skip, rest);
      rest -= tokens;
      UNROLL for (int n = 0; n < streams; n++) v[n] = run->values[n][piece] + panel + skip / ITEM_TOKENS(dtype) * v_item;
      const char *const end = v[0] + tokens / ITEM_TOKENS(dtype) * v_item;
      ROLLED while (v[0] != end) {
        UNROLL for (int u = 0; u < unroll; u++) UNROLL for (int n = 0; n < streams; n++) UNROLL for (int i = 0; i < items; i++) {
          const int item = u * items + i;
          value_step(dtype, rows, &bits, acc[n * chains / streams], p[n] + 4 * rows * item, v[n] + v_item * item);
        }
        UNROLL for (int n = 0; n < streams; n++) v[n] += items * unroll * v_item, p[n] += 4 * rows * items * unroll;
      }
    }
    UNROLL for (int i = 0; i < chains; i++) UNROLL for (int m = 0; m < rows; m++) UNROLL for (int j = 0; j < 2; j++)
      STORE(run->sums[i] + 4 * (m * dim + d) + 16 * j, acc[i][m][j]);
  }
}

typedef void ValueFn(const ValueRun *run);
#define VALUE(name, dtype, rows, pages, chains, unroll) \
  NOINLINE void name(const ValueRun *run) { value_tile(dtype, rows, pages, chains, unroll, run); }
#define VALUES(name, dtype, unroll)                                                                              \
  VALUE(name##_1, dtype, 1, 1, 1, unroll) VALUE(name##_2, dtype, 2, 1, 1, unroll)                                \
  VALUE(name##_3, dtype, 3, 1, 1, unroll) VALUE(name##_4, dtype, 4, 1, 1, unroll)                                \
  VALUE(name##_5, dtype, 5, 1, 1, unroll) VALUE(name##_6, dtype, 6, 1, 1, unroll)                                \
  VALUE(name##_1_pair, dtype, 1, 2, 1, unroll) VALUE(name##_2_pair, dtype, 2, 2, 1, unroll)                      \
  VALUE(name##_3_pair, dtype, 3, 2, 1, unroll) VALUE(name##_4_pair, dtype, 4, 2, 1, unroll)                      \
  VALUE(name##_5_pair, dtype, 5, 2, 1, unroll) VALUE(name##_6_pair, dtype, 6, 2, 1, unroll)                      \
  VALUE(name##_1_two, dtype, 1, 2, 2, 1) VALUE(name##_2_two, dtype, 2, 2, 2, 1) VALUE(name##_3_two, dtype, 3, 2, 2, 1) \
  VALUE(name##_1_four, dtype, 1, 4, 4, 1)                                                                        \
  static ValueFn *const name##_fns[4][MAX_GROUP] = {                                                             \
      {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6},                                              \
      {name##_1_pair, name##_2_pair, name##_3_pair, name##_4_pair, name##_5_pair, name##_6_pair},                \
      {name##_1_two, name##_2_two, name##_3_two},                                                                \
      {name##_1_four}};

/* Of value_fns: one run; two runs in one chain; two or four with a chain each. */
enum { VALUE_ONE = 0, VALUE_PAIR = 1, VALUE_TWO = 2, VALUE_FOUR = 3 };
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
