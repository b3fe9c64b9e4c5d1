/*
 * How a page lies in memory. A page holds P tokens for one layer and KV head: K, then V, then (int8) the scales. Blocks of T tokens,
 * which slots hold, share pages: each has its T of the P tokens in the pages of all heads and of the layers of a group.
 *   f32         K [P/4][D][4 tokens]                      V [D/8][P][8 dims]
 *   f16, bf16   K [P/4][D/8][4 dims][4 tokens][2]         V [D/8][P][4 dims][2]     [2]: dims d (low half) and d + 4
 *   int8, dot   K [P/4][D/4][4 tokens][4 dims] + 128      V [D/8][P/4][8 dims][4 tokens]
 *   int8, pairs K [P/4][D/2][4 tokens][2 dims]            V [D/8][P/2][8 dims][2 tokens]
 * and for int8 f32 scales of K [P] and of V [P], so that scores of four tokens land in four lanes without horizontal adds, and
 * values in lanes by dimension. D is head_dim padded with zeros to a multiple of 8. T is a power of two, at least 16.
 * The structs are written by the host: all fields are 32 bits.
 */
#pragma once
#include "simd.h"

enum { KV_F32 = 0, KV_F16 = 1, KV_BF16 = 2, KV_INT8_PAIRS = 3, KV_INT8_DOT = 4 };
#define KV_DTYPES 5
#define IS_INT8(dtype) ((dtype) >= KV_INT8_PAIRS)
#define IS_HALF(dtype) ((dtype) == KV_F16 || (dtype) == KV_BF16)
#define ELEMENT_BYTES(dtype) ((dtype) == KV_F32 ? 4 : IS_HALF(dtype) ? 2 : 1)

/* Query rows that share one tile of accumulators at most: 6 x 2 vectors, 2 loaded and 1 splat fill V8's 15 registers. */
#define MAX_GROUP 6
#define MAX_DIM 512

enum { ROW_F32 = 0, ROW_F16 = 1, ROW_INT8 = 2 };

typedef struct {
  uint32_t dtype;
  uint32_t kv_heads;
  uint32_t group;        /* query heads per KV head */
  uint32_t head_dim;
  uint32_t dim;          /* head_dim padded to a multiple of 8 */
  uint32_t block_tokens; /* T */
  uint32_t page_tokens;  /* P */
  uint32_t page_bytes;
  uint32_t value_offset; /* bytes from the page to V */
  uint32_t scale_offset; /* bytes from the page to the scales (int8) */
  float scale;           /* softmax scale times log2(e): scores are in base 2 */
  uint32_t row_dtype;    /* of q, k, v and o (rows.h) */
  uint32_t qkv_row_bytes;
  uint32_t output_row_bytes;
  uint32_t table_blocks;          /* from the block table of one layer group of a slot to the next one's */
  const uint32_t *windows;        /* [layers], 0 is no window */
  const uint32_t *group_of_layer; /* [layers], layer group */
  const uint32_t *place_of_layer; /* [layers], among the layers of its group */
} Config;

/* A freed slot: its blocks may be another's by now. / Rows that only look: nothing is appended. */
enum { ENTRY_DEAD = 1, ENTRY_VISIT = 2 };

/* `count` rows of one slot. Row i sees the tokens below position + i + 1 and below `stored`, within the layer's window. */
typedef struct {
  const uint32_t *tables; /* [layer groups][table_blocks] blocks (place_of), by position / T */
  uint32_t position;
  uint32_t count;
  uint32_t stored;    /* position + count where the rows are appended, else what the slot holds */
  uint32_t flags;     /* ENTRY_ */
  uint32_t first_row; /* in qkv and output */
} Entry;

/* A context is cut at multiples of this, whoever runs what: each piece is a softmax of its own. A multiple of any tile. */
#define SPLIT_TOKENS 2048

/* A piece of a step that one worker runs: entries, or heads of one entry, or rows or splits of one head of one entry. */
typedef struct {
  uint32_t first_entry, end_entry;
  uint32_t first_head, end_head;
  uint32_t first_row, end_row; /* that attend, of an entry's: token * group + query head; none where the task only appends */
  uint32_t appended;           /* k and v were appended by other tasks, which are done */
  uint32_t first_split, end_split; /* where partials is null, all */
  float *partials;                 /* [splits that are seen][rows][dim + 4]: o, maximum, sum, two unused; of this entry and head */
  uint32_t *counter;               /* finished tasks of this entry and head; the last one folds and sets it to 0 again */
  uint32_t parts;                  /* how many tasks they are */
} Task;

typedef struct {
  const char *qkv;    /* [rows, (group + 2) kv_heads head_dim] as rows.h says */
  char *output;       /* [rows, group kv_heads head_dim] */
  float *log_sum_exp; /* [rows, group kv_heads], natural; null where nobody wants it */
  const Entry *entries;
  const Task *tasks;
} Step;

/* Where a token lies: a page, and which of its tokens it is. */
typedef struct {
  char *page;
  uint32_t token;
} Place;

INLINE const uint32_t *block_table(const Config *c, const Entry *e, uint32_t layer) {
  return e->tables + c->group_of_layer[layer] * c->table_blocks;
}

/* A block is written as the address of its pages, a multiple of 64, plus the block's number among those that share them. */
INLINE Place place_of(const Config *c, const Entry *e, uint32_t position, uint32_t layer, uint32_t head) {
  const uint32_t block = block_table(c, e, layer)[position / c->block_tokens];
  return (Place){(char *)(block & ~63u) + (c->place_of_layer[layer] * c->kv_heads + head) * c->page_bytes,
                 (block & 63) * c->block_tokens + position % c->block_tokens};
}

/*
 * 16-bit floats to f32, no conversion instruction. f16 comes out times 2^-112: the exponent field is moved in place, not
 * rebiased, and 2^112 is folded into the other operand; subnormals come out right, infinities and NaN can't occur (append
 * clamps). The high half of a bf16 pair is the word as it is: append rounds it together with the low half beneath it.
 */
#define F16_FACTOR 0x1p112f
typedef struct {
  Vec shift, low, high;
} HalfBits;
INLINE HalfBits half_bits(const int dtype) {
  HalfBits bits = {BITS(8192), BITS(0x8fffffff), BITS(0x8fffe000)};
  if (dtype == KV_F16) {
    PIN(bits.shift);
    PIN(bits.low);
    PIN(bits.high);
  }
  return bits;
}
INLINE Vec half_low(const int dtype, const HalfBits *bits, Vec pair) {
  if (dtype == KV_BF16) return wasm_i32x4_shl(pair, 16);
  return wasm_v128_and(wasm_i32x4_dot_i16x8(pair, bits->shift), bits->low);
}
INLINE Vec half_high(const int dtype, const HalfBits *bits, Vec pair) {
  if (dtype == KV_BF16) return pair;
  return wasm_v128_and(wasm_i32x4_shr(pair, 3), bits->high);
}
