/*
 * What one thread can do at most, for benchmarks: chains of multiply-adds and of dot products that touch no memory, and reading,
 * in the instructions that the kernels use. A module of its own, which no package ships. read_memory of attention.c reads
 * one stream; two are faster on some machines (Zen 5: by 15 to 20 % on one thread).
 */
#include "simd.h"

/* Independent accumulators: enough for the latency times the width of any CPU so far, few enough for 16 registers. */
#define CHAINS 12

/* Keeps a value out of the compiler's sight, so that nothing is folded or moved out of the loop. */
#define OPAQUE(v) __asm__ volatile("" : "+r"(v))

#define PEAK(name, start, x, y, operation)                                                                    \
  EXPORT(name) int32_t name(uint32_t rounds) {                                                                \
    Vec acc[CHAINS], a = x, b = y;                                                                            \
    OPAQUE(a);                                                                                                \
    OPAQUE(b);                                                                                                \
    UNROLL for (int i = 0; i < CHAINS; i++) {                                                                 \
      acc[i] = start;                                                                                         \
      OPAQUE(acc[i]);                                                                                         \
    }                                                                                                         \
    ROLLED for (; rounds > 0; rounds--) {                                                                     \
      UNROLL for (int i = 0; i < CHAINS; i++) {                                                               \
        acc[i] = operation;                                                                                   \
        PIN(acc[i]);                                                                                          \
      }                                                                                                       \
    }                                                                                                         \
    UNROLL for (int i = 1; i < CHAINS; i++) acc[0] = wasm_v128_xor(acc[0], acc[i]);                           \
    return wasm_i32x4_extract_lane(acc[0], 0) ^ wasm_i32x4_extract_lane(acc[0], 1);                           \
  }

/* 8 operations an instruction (two with plain SIMD). 0.5 x + 0.5 stays at 1: no subnormals, no infinities. */
PEAK(peak_fma, SPLAT(1.0f), SPLAT(0.5f), SPLAT(0.5f), MADD(a, acc[i], b))

/*
 * 8 products and 8 additions a pair of instructions: what plain SIMD has for integers. The product takes the accumulator, or
 * V8 would compute it once for all.
 */
PEAK(peak_dot_i16, a, BITS(0x00010001), BITS(0x00010001), wasm_i32x4_add(b, wasm_i32x4_dot_i16x8(a, acc[i])))

#ifdef __wasm_relaxed_simd__
/* 16 products and 16 additions: one instruction where the CPU has VNNI. */
PEAK(peak_dot_i8, ZERO, BITS(0x01010101), BITS(0x01010101), wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, b, acc[i]))
#endif

/* bytes: a multiple of 512. */
EXPORT(read_two_streams)
uint32_t read_two_streams(const char *p, uint32_t bytes) {
  Vec acc[8];
  UNROLL for (int i = 0; i < 8; i++) acc[i] = ZERO;
  const char *end = p + bytes / 2, *q = end;
  ROLLED for (; p != end; p += 128, q += 128) {
    UNROLL for (int i = 0; i < 8; i++) {
      acc[i] = wasm_v128_xor(acc[i], LOAD(p + 16 * i));
      PIN(acc[i]);
    }
    UNROLL for (int i = 0; i < 8; i++) {
      acc[i] = wasm_v128_xor(acc[i], LOAD(q + 16 * i));
      PIN(acc[i]);
    }
  }
  UNROLL for (int i = 1; i < 8; i++) acc[0] = wasm_v128_xor(acc[0], acc[i]);
  return wasm_i32x4_extract_lane(acc[0], 0) ^ wasm_i32x4_extract_lane(acc[0], 1);
}
