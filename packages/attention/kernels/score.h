/*
 * Scores: 1 to 6 query rows against quads of tokens of two or (one row) four streams at once. A stream is a run, or where there are
 * fewer runs every other quad of one. The query is packed [k][rows], so that there is one load stream beside the keys; the loop
 * over the dimension is rolled and reads every stream in order. A score is one chain of multiply-adds over the dimension (16-bit
 * KV: two, one for the low halves of words, one for the high ones) whatever is computed beside it.
 */
#pragma once
#include "layout.h"

typedef struct {
  const char *const *keys[4]; /* pieces of each stream */
  const float *const *scales[4]; /* int8: their K scales */
  float *scores[4];           /* of its first quad, row 0 */
  uint32_t lead[4];           /* quads of its first piece before that */
  uint32_t lap;               /* quads from one of a stream to its next: streams of one run take turns */
  uint32_t skip;              /* tokens of the first piece that are passed over */
  uint32_t tokens;            /* of each run */
  uint32_t piece_tokens;
  uint32_t quad_bytes;        /* 4 * dim elements */
  uint32_t row_stride;        /* floats between rows */
} ScoreRun;

/* Scale and, where bytes of K carry an offset, its share of each row's dots. */
typedef struct {
  float scale;
  int32_t bias;
} QueryScale;

/* Packed bytes of a query row that 16 bytes of K take. */
#define QUERY_STEP(dtype) (IS_HALF(dtype) || (dtype) == KV_INT8_PAIRS ? 8 : 4)

/* 16 bytes of each of two streams, or only one half of the words, against `rows` packed query rows. */
INLINE void score_step(const int dtype, const int rows, const int half, const HalfBits *bits, Vec acc[][2], const char *q, const char *key0,
                       const char *key1) {
  Vec k0 = LOAD(key0), k1 = LOAD(key1);
  if (dtype == KV_INT8_PAIRS) {
    k0 = half ? wasm_i16x8_extend_high_i8x16(k0) : wasm_i16x8_extend_low_i8x16(k0);
    k1 = half ? wasm_i16x8_extend_high_i8x16(k1) : wasm_i16x8_extend_low_i8x16(k1);
  } else if (IS_HALF(dtype)) {
    k0 = half ? half_high(dtype, bits, k0) : half_low(dtype, bits, k0);
    k1 = half ? half_high(dtype, bits, k1) : half_low(dtype, bits, k1);
  }
  UNROLL for (int m = 0; m < rows; m++) {
    Vec x = SPLAT_AT(q + 4 * (rows * half + m)), *c = acc[m];
    UNROLL for (int j = 0; j < 2; j++) {
      Vec k = j ? k1 : k0;
      c[j] = dtype == KV_INT8_DOT     ? DOT(x, k, c[j])
             : dtype == KV_INT8_PAIRS ? wasm_i32x4_add(c[j], wasm_i32x4_dot_i16x8(k, x))
                                      : MADD(x, k, c[j]);
      PIN(c[j]);
    }
  }
}

INLINE void score_tile(const int dtype, const int rows, const int streams, const int unroll, const char *q,
                       const QueryScale *scale, const ScoreRun *run) {
  const int q_bytes = QUERY_STEP(dtype) * rows, halves = QUERY_STEP(dtype) / 4;
  /* Few rows need both chains at once to hide the latency of the adds; many don't have the registers and pass twice. */
  const int chains = IS_HALF(dtype) && rows <= 3 ? 2 : 1, passes = IS_HALF(dtype) && rows > 3 ? 2 : 1;
  const uint32_t stride = run->row_stride, quad = run->quad_bytes, lap = run->lap;
  const HalfBits bits = half_bits(dtype);
  const char *key[4];
  const float *k_scale[4];
  float *out[4];
  UNROLL for (int n = 0; n < streams; n++) out[n] = run->scores[n];
  ROLLED for (uint32_t piece = 0, skip = run->skip, rest = run->tokens; rest > 0; piece++, skip = 0) {
    const uint32_t tokens = min_u32(run->piece_tokens - skip, rest);
    rest -= tokens;
    UNROLL for (int n = 0; n < streams; n++) {
      const uint32_t first = skip / 4 + run->lead[n];
      key[n] = run->keys[n][piece] + first * quad;
      if (IS_INT8(dtype)) k_scale[n] = run->scales[n][piece] + 4 * first;
    }
    ROLLED for (uint32_t left = tokens / 4; left > 0; left -= lap) {
      UNROLL for (int pass = 0; pass < passes; pass++) {
        const char *a = q, *end = key[0] + quad / (16 * unroll) * (16 * unroll), *tail = key[0] + quad;
        Vec acc[2][2][MAX_GROUP][2];
        UNROLL for (int i = 0; i < chains; i++) UNROLL for (int n = 0; n < streams; n++) UNROLL for (int m = 0; m < rows; m++)
          acc[i][n / 2][m][n % 2] = dtype == KV_INT8_DOT ? SPLAT_AT(&scale[m].bias) : ZERO;
        ROLLED while (key[0] != end) {
          UNROLL for (int u = 0; u < unroll; u++) UNROLL for (int half = 0; half < halves; half++)
            UNROLL for (int n = 0; n < streams; n += 2)
              if (passes == 1 || half == pass)
                score_step(dtype, rows, half, &bits, acc[chains == 2 ? half : 0][n / 2], a + q_bytes * u, key[n] + 16 * u,
                           key[n + 1] + 16 * u);
          a += q_bytes * unroll;
          UNROLL for (int n = 0; n < streams; n++) key[n] += 16 * unroll;
        }
        if (unroll > 2 && dtype == KV_INT8_DOT) {
          ROLLED for (; key[0] != tail; a += q_bytes) {
            UNROLL for (int n = 0; n < streams; n += 2) score_step(dtype, rows, 0, &bits, acc[0][n / 2], a, key[n], key[n + 1]);
            UNROLL for (int n = 0; n < streams; n++) key[n] += 16;
          }
        }
        UNROLL for (int n = 0; n < streams; n++) {
          UNROLL for (int m = 0; m < rows; m++) {
            Vec sum = acc[0][n / 2][m][n % 2];
            if (IS_INT8(dtype)) sum = MUL(MUL(wasm_f32x4_convert_i32x4(sum), SPLAT_AT(&scale[m].scale)), LOAD(k_scale[n]));
            if (chains == 2) sum = ADD(sum, acc[1][n / 2][m][n % 2]);
            if (pass == 1) sum = ADD(LOAD(out[n] + m * stride), sum);
            STORE(out[n] + m * stride, sum);
          }
          if (pass + 1 < passes) key[n] -= quad;
        }
      }
      UNROLL for (int n = 0; n < streams; n++) {
        key[n] += (lap - 1) * quad;
        out[n] += 4 * lap;
        if (IS_INT8(dtype)) k_scale[n] += 4 * lap;
      }
    }
  }
}

typedef void ScoreFn(const char *q, const QueryScale *scale, const ScoreRun *run);
#define SCORE(name, dtype, rows, streams, unroll)                                     \
  NOINLINE void name(const char *q, const QueryScale *scale, const ScoreRun *run) {   \
    score_tile(dtype, rows, streams, unroll, q, scale, run);                          \
  }
/* 16-bit with four streams: unrolled twice the splats spill. */
#define SCORES(name, dtype, unroll4, unroll)                                                  \
  SCORE(name##_1, dtype, 1, 4, unroll4) SCORE(name##_2, dtype, 2, 2, unroll)                  \
  SCORE(name##_3, dtype, 3, 2, unroll) SCORE(name##_4, dtype, 4, 2, unroll)                   \
  SCORE(name##_5, dtype, 5, 2, unroll) SCORE(name##_6, dtype, 6, 2, unroll)                   \
  static ScoreFn *const name##_fns[MAX_GROUP] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};
SCORES(score_f32, KV_F32, 4, 4)
SCORES(score_f16, KV_F16, 1, 2)
SCORES(score_bf16, KV_BF16, 1, 2)
SCORES(score_pairs, KV_INT8_PAIRS, 1, 2)
#if HAS_DOT
SCORES(score_dot, KV_INT8_DOT, 2, 4)
#endif

/* [dtype][rows - 1] */
static ScoreFn *const *const score_fns[KV_DTYPES] = {score_f32_fns, score_f16_fns, score_bf16_fns,
                                                                 score_pairs_fns,
#if HAS_DOT
                                                                 score_dot_fns
#endif
};
