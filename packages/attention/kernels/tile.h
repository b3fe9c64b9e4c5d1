/*
 * One tile of KV: neighbouring tokens of one slot, layer and KV head, that up to 64 query rows read together. Packs queries, computes
 * scores, applies softmax and adds values to the rows' output; the order of every sum is fixed by positions alone.
 */
#pragma once
#include "score.h"
#include "softmax.h"
#include "value.h"

/* Query rows that share one walk over KV. More reuse a tile better; these keep scratch in L2. */
#define MAX_ROWS 64
/*
 * A tile is four runs of tokens. One row reads all of them at once, more rows two: of random 16 KiB one stream reads 10 GB/s and
 * four 20, of 128 KiB 25 and 34. Tiles and runs begin at multiples of their length, whatever lies in one block, so that a row's
 * bits depend on positions only.
 */
#define RUN_TOKENS 256
#define TILE_RUNS 4
#define TILE_TOKENS (TILE_RUNS * RUN_TOKENS)
/* Up to as many query heads a KV head the runs of a tile have each a chain of their own for values, as their rows need them. */
#define MHA_GROUP 3
_Static_assert(TILE_RUNS <= MAX_SPANS, "a span of weights is a chain's tokens");
#define SCORE_FLOATS (MAX_ROWS * TILE_TOKENS)
#define SCORE_PAD 16 /* floats between score rows, against rows that share cache sets */
/* What a worker needs while it attends; its own, so that several may work on one memory. */
typedef struct {
  float query[MAX_ROWS * MAX_DIM];                   /* packed by groups of rows, [dim][rows] */
  float scores[SCORE_FLOATS + MAX_ROWS * SCORE_PAD]; /* [rows][tokens of the tile]; then sums_of */
  float weights[SCORE_FLOATS + MAX_ROWS * SCORE_PAD + 4];                   /* packed by groups, [tokens][rows] */
  float output[MAX_ROWS * MAX_DIM];                  /* [rows][dim] */
  float value_scales[TILE_TOKENS + 4];
  QueryScale query_scale[MAX_ROWS];
  float maximum[MAX_ROWS], sum[MAX_ROWS], alpha[MAX_ROWS], weight_scale[MAX_ROWS * MAX_SPANS];
  float padded_key[MAX_DIM], padded_value[MAX_DIM];
} Scratch;

/* Rows are split evenly into groups that share a tile of accumulators. */
static uint32_t group_count(const Config *c, uint32_t rows) {
  const uint32_t most = c->dtype == KV_F16 || c->dtype == KV_INT8_PAIRS ? 4 : MAX_GROUP;
  return (rows + most - 1) / most;
}
static uint32_t group_start(uint32_t rows, uint32_t groups, uint32_t group) { return group * rows / groups; }

static uint32_t query_row_bytes(const Config *c) {
  return c->dim * (c->dtype == KV_INT8_DOT ? 1 : c->dtype == KV_INT8_PAIRS ? 2 : 4);
}

/* Bytes of packed weights of a row and token. */
static uint32_t weight_bytes(const Config *c) { return c->dtype == KV_INT8_DOT ? 1 : c->dtype == KV_INT8_PAIRS ? 2 : 4; }

INLINE void store_lanes(Vec x, float *to, uint32_t stride) {
  wasm_v128_store32_lane(to, x, 0);
  wasm_v128_store32_lane(to + stride, x, 1);
  wasm_v128_store32_lane(to + 2 * stride, x, 2);
  wasm_v128_store32_lane(to + 3 * stride, x, 3);
}

/* Query row r of a group of `rows`, scaled: as floats, or as integers with a scale of its own. */
static void pack_query(const Config *c, Scratch *s, const float *q, char *group, uint32_t rows, uint32_t r, QueryScale *scale) {
  if (!IS_INT8(c->dtype)) {
    const Vec factor = SPLAT(c->scale * (c->dtype == KV_F16 ? F16_FACTOR : 1));
    float *to = (float *)group + r;
    for (uint32_t d = 0; d < c->dim; d += 8) {
      Vec a = MUL(LOAD(q + d), factor), b = MUL(LOAD(q + d + 4), factor);
      if (c->dtype != KV_F32) { /* in the order of the halves */
        const Vec low = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5);
        b = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7);
        a = low;
      }
      store_lanes(a, to + d * rows, rows);
      store_lanes(b, to + (d + 4) * rows, rows);
    }
    return;
  }
  /* Pairs: 32767 * 127 * MAX_DIM stays within int32. */
  const float most = largest(q, c->dim), limit = c->dtype == KV_INT8_DOT ? 127.0f : 32767.0f;
  const float inverse = most > 0x1p-110f ? limit / most : 0;
  Vec total = ZERO;
  for (uint32_t d = 0; d < c->dim; d += 4) {
    const Vec x = round_to_int(MUL(LOAD(q + d), SPLAT(inverse))), words = wasm_i16x8_narrow_i32x4(x, x);
    total = wasm_i32x4_add(total, x);
    if (c->dtype == KV_INT8_DOT) {
      wasm_v128_store32_lane(group + (d / 4 * rows + r) * 4, wasm_i8x16_narrow_i16x8(words, words), 0);
    } else {
      wasm_v128_store32_lane(group + (d / 2 * rows + r) * 4, words, 0);
      wasm_v128_store32_lane(group + ((d / 2 + 1) * rows + r) * 4, words, 1);
    }
  }
  scale->scale = most / limit * c->scale;
  scale->bias = -128 * (wasm_i32x4_extract_lane(total, 0) + wasm_i32x4_extract_lane(total, 1) +
                        wasm_i32x4_extract_lane(total, 2) + wasm_i32x4_extract_lane(total, 3));
}

/* Tokens [from, to) of runs run to run + count - 1 of a tile. */
typedef struct {
  uint32_t run, count, from, to;
} Stretch;

/* TILE_TOKENS of a walk, in the pieces of them that lie together: runs where that is so of all of them, else blocks. */
typedef struct {
  const char *keys[TILE_TOKENS / 16], *values[TILE_TOKENS / 16];
  const float *scales[TILE_TOKENS / 16];
  uint32_t piece_tokens;
  uint32_t from, to; /* its tokens that any row sees, to multiples of 16 */
  uint32_t stride;   /* floats between score rows */
  uint32_t base;     /* of the head's rows among those of the walk */
} Tile;

/* What a tile's values add up to: f32 (int8: int32) [chains][rows][dim]. Scores are weights by then. */
static float *sums_of(Scratch *s) { return s->scores; }

/*
 * Chains of a tile's values. int8: the weights of each have a scale of their own; with one for a tile of 1,024 tokens the eight bits
 * of dots cost half as much again in perplexity.
 */
static uint32_t chains(const Config *c) { return c->group <= MHA_GROUP ? TILE_RUNS : IS_INT8(c->dtype) ? TILE_RUNS / 2 : 1; }
static uint32_t chain_of(const Config *c, uint32_t run) { return run * chains(c) / TILE_RUNS; }

/* Of one walk at most: so many that their scores and sums fit. */
static uint32_t most_rows(const Config *c) { return min_u32(MAX_ROWS, MAX_ROWS * MAX_DIM / (chains(c) * c->dim)); }

/* Scores of rows r to r + rows - 1, a group. */
static void add_scores(const Config *c, Scratch *s, const Tile *tile, const Stretch *at, uint32_t r, uint32_t rows, uint32_t all) {
  (void)all;
  const uint32_t streams = rows == 1 ? 4 : 2, piece = tile->piece_tokens, lap = streams / at->count;
  ScoreRun run = {.lap = lap, .skip = at->from % piece, .tokens = at->to - at->from, .piece_tokens = piece,
                  .quad_bytes = 4 * c->dim * ELEMENT_BYTES(c->dtype), .row_stride = tile->stride};
  for (uint32_t n = 0; n < streams; n++) {
    const uint32_t first = (at->run + n / lap) * RUN_TOKENS + at->from;
    run.lead[n] = n % lap;
    run.keys[n] = tile->keys + first / piece;
    run.scales[n] = tile->scales + first / piece;
    run.scores[n] = s->scores + r * tile->stride + first + 4 * run.lead[n];
  }
  score_fns[c->dtype][rows - 1]((const char *)s->query + (tile->base + r) * query_row_bytes(c), s->query_scale + tile->base + r, &run);
}

/* Hides what row r may not see: [from, to) of the tile's tokens is visible. */
static void mask(float *row, uint32_t tokens, int32_t from, int32_t to) {
  for (int32_t t = 0; t < from && t < (int32_t)tokens; t++) row[t] = MASKED;
  for (int32_t t = to < 0 ? 0 : to; t < (int32_t)tokens; t++) row[t] = MASKED;
}

/* V scales, 0 for tokens that aren't written; up to 3 beyond a piece are overwritten. */
static void gather_value_scales(const Config *c, Scratch *s, const Tile *tile, uint32_t written) {
  const uint32_t piece = tile->piece_tokens;
  for (uint32_t t = tile->from, end; t < written; t = end) {
    const float *scales = tile->scales[t / piece] + c->page_tokens + t % piece;
    end = min_u32(t / piece * piece + piece, written);
    for (uint32_t i = t; i < end; i += 4) STORE(s->value_scales + i, LOAD(scales + i - t));
  }
  for (uint32_t t = written; t < tile->to; t++) s->value_scales[t] = 0;
}

static void add_values(const Config *c, Scratch *s, const Tile *tile, const Stretch *at, uint32_t r, uint32_t rows, uint32_t all) {
  const uint32_t piece = tile->piece_tokens;
  ValueRun run = {.skip = at->from % piece, .tokens = at->to - at->from, .piece_tokens = piece, .dim = c->dim,
                  .panel_bytes = 8 * c->page_tokens * ELEMENT_BYTES(c->dtype)};
  for (uint32_t n = 0; n < at->count; n++) {
    const uint32_t first = (at->run + n) * RUN_TOKENS + at->from;
    run.values[n] = tile->values + first / piece;
    run.weights[n] = (const char *)s->weights + (r * tile->stride + first * rows) * weight_bytes(c);
    run.sums[n] = (char *)(sums_of(s) + (chain_of(c, at->run + n) * all + r) * c->dim);
  }
  const int kind = at->count == 1 ? VALUE_ONE : chains(c) < TILE_RUNS ? VALUE_PAIR : at->count == 2 ? VALUE_TWO : VALUE_FOUR;
  value_fns[c->dtype][kind][rows - 1](&run);
}

/* output = output * alpha + sums; int8: of each chain times its scale. */
INLINE void add_chains(const int int8, const Config *c, Scratch *s, uint32_t base, uint32_t rows) {
  const uint32_t all = chains(c), plane = rows * c->dim;
  float *output = s->output + base * c->dim;
  const float *sums = sums_of(s);
  ROLLED for (uint32_t r = 0; r < rows; r++) {
    const Vec alpha = SPLAT(s->alpha[r]);
    const float *scale = s->weight_scale + MAX_SPANS * r;
    ROLLED for (uint32_t i = r * c->dim; i < (r + 1) * c->dim; i += 4) {
      Vec sum = int8 ? MUL(wasm_f32x4_convert_i32x4(LOAD(sums + i)), SPLAT_AT(scale)) : LOAD(sums + i);
      for (uint32_t n = 1; n < all; n++) {
        const Vec x = LOAD(sums + n * plane + i);
        sum = int8 ? MADD(wasm_f32x4_convert_i32x4(x), SPLAT_AT(scale + n), sum) : ADD(sum, x);
      }
      STORE(output + i, MADD(LOAD(output + i), alpha, sum));
    }
  }
}
static void add_sums(const Config *c, Scratch *s, uint32_t base, uint32_t rows) {
  if (IS_INT8(c->dtype)) add_chains(1, c, s, base, rows);
  else add_chains(0, c, s, base, rows);
}

typedef void StretchFn(const Config *c, Scratch *s, const Tile *tile, const Stretch *at, uint32_t r, uint32_t rows, uint32_t all);

/*
 * Calls `fn` for all that is visible of a tile and all groups of rows: up to `wide` runs at once, those of them that have the
 * tokens. Each group takes whole runs: eight int8 heads do 52 % of peak from DRAM so, 47 % where all groups take 64 tokens before
 * the next ones, and prefill is no slower though its keys leave L1.
 */
static void each_stretch(const Config *c, Scratch *s, const Tile *tile, uint32_t rows, uint32_t wide, StretchFn *fn) {
  const uint32_t groups = group_count(c, rows), runs = (tile->to + RUN_TOKENS - 1) / RUN_TOKENS;
  const uint32_t lead = tile->from % RUN_TOKENS, trail = tile->to % RUN_TOKENS; /* of the first run not, of the last run alone */
  for (uint32_t set = tile->from / RUN_TOKENS; set < runs; set = (set / wide + 1) * wide) {
    const uint32_t set_end = min_u32((set / wide + 1) * wide, runs);
    for (uint32_t from = 0, to; from < RUN_TOKENS; from = to) {
      uint32_t first = set, end = set_end;
      to = RUN_TOKENS;
      if (from < lead && set == tile->from / RUN_TOKENS) {
        first++;
        to = min_u32(to, lead);
      }
      if (trail != 0 && end == runs) {
        if (from < trail) to = min_u32(to, trail);
        else end--;
      }
      for (Stretch at = {.run = first, .from = from, .to = to}; at.run < end; at.run += at.count) {
        at.count = end - at.run >= 4 && wide == 4 ? 4 : end - at.run >= 2 && wide >= 2 ? 2 : 1;
        for (uint32_t g = 0; g < groups; g++) {
          const uint32_t r = group_start(rows, groups, g);
          fn(c, s, tile, &at, r, group_start(rows, groups, g + 1) - r, rows);
        }
      }
    }
  }
}

/*
 * The tile whose tokens lie from `base` on, those from `from` to `to` of them. Neighbouring blocks mostly lie in one page
 * (page-layout.ts): a run of them is one piece.
 */
static void find_pieces(const Config *c, const Entry *e, uint32_t layer, uint32_t head, uint32_t base, Tile *tile) {
  const uint32_t T = c->block_tokens, bytes = ELEMENT_BYTES(c->dtype);
  const uint32_t first = (base + tile->from) / T, last = (base + tile->to - 1) / T;
  const uint32_t *table = block_table(c, e, layer);
  int together = 1;
  for (uint32_t block = first + 1; block <= last; block++) together &= table[block] == table[block - 1] + 1 || block * T % RUN_TOKENS == 0;
  tile->piece_tokens = together ? RUN_TOKENS : min_u32(T, RUN_TOKENS);
  for (uint32_t i = tile->from / tile->piece_tokens; i * tile->piece_tokens < tile->to; i++) {
    const uint32_t start = i * tile->piece_tokens, seen = start < tile->from ? tile->from : start;
    const Place place = place_of(c, e, base + seen, layer, head);
    const int32_t t = (int32_t)place.token - (int32_t)(seen - start); /* where the page has the piece's first token, seen or not */
    tile->keys[i] = place.page + t * (int32_t)(c->dim * bytes);
    tile->values[i] = place.page + c->value_offset + t * (int32_t)(8 * bytes);
    tile->scales[i] = (const float *)(place.page + c->scale_offset) + t;
  }
}

/* Query rows of one slot that walk together, of `heads` KV heads: row = token * group + query head, from row `first` of the entry. */
typedef struct {
  const Entry *entry;
  uint32_t layer, head, heads, first, rows;
} Walk;

/* Nothing was seen yet. */
static void begin_rows(const Config *c, Scratch *s, uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++) {
    s->maximum[r] = NO_MAXIMUM;
    s->sum[r] = 0;
  }
  for (uint32_t i = 0; i < rows * c->dim; i += 4) STORE(s->output + i, ZERO);
}

/* One head's rows over a tile of which the tokens below `to` are written. */
static void walk_tile(const Config *c, Scratch *s, const Walk *walk, const Tile *tile, uint32_t base, uint32_t to) {
  const Entry *e = walk->entry;
  const uint32_t group = c->group, window = c->windows[walk->layer], rows = walk->rows, groups = group_count(c, rows);
  each_stretch(c, s, tile, rows, rows == 1 ? 4 : 2, add_scores);
  if (IS_INT8(c->dtype)) gather_value_scales(c, s, tile, to - base);
  for (uint32_t r = 0; r < rows; r++) {
    const uint32_t seen = e->position + (walk->first + r) / group + 1;
    const int32_t end = (int32_t)(min_u32(seen, to) - base), start = window != 0 ? (int32_t)(seen - window - base) : 0;
    if (start > 0 || end < (int32_t)tile->to) mask(s->scores + r * tile->stride, tile->to, start, end);
  }
  for (uint32_t i = 0; i < MAX_SPANS * rows; i++) s->weight_scale[i] = 0;
  for (uint32_t g = 0; g < groups; g++) {
    const uint32_t r = group_start(rows, groups, g), n = group_start(rows, groups, g + 1) - r, row = tile->base + r;
    SoftmaxRun run = {s->scores + r * tile->stride + tile->from, tile->stride, tile->from, tile->to - tile->from, TILE_TOKENS / chains(c),
                      (char *)s->weights + (r * tile->stride + tile->from * n) * weight_bytes(c), s->value_scales + tile->from,
                      s->maximum + row, s->sum + row, s->alpha + r, s->weight_scale + MAX_SPANS * r};
    softmax_fns[c->dtype][n - 1](&run);
  }
  for (uint32_t i = 0; i < chains(c) * rows * c->dim; i += 4) STORE(sums_of(s) + i, ZERO);
  each_stretch(c, s, tile, rows, chains(c) < TILE_RUNS ? 2 : rows == 1 ? 4 : rows <= 3 ? 2 : 1, add_values);
  add_sums(c, s, tile->base, rows);
}

/*
 * Takes the rows, whose queries are packed, over those of the tokens [from, to) that each may see: their maximum, sum and output
 * grow. `from` is where a tile begins; all of the tokens are written. Heads take turns at each tile, as their pages are neighbours.
 */
static void walk_tokens(const Config *c, Scratch *s, const Walk *walk, uint32_t from, uint32_t to) {
  const uint32_t window = c->windows[walk->layer], earliest = walk->entry->position + walk->first / c->group;
  const uint32_t begin = window != 0 && earliest + 1 > window ? earliest + 1 - window : 0;
  Tile tile;
  for (uint32_t at = begin > from ? begin : from, base; at < to; at = base + TILE_TOKENS) {
    base = at / TILE_TOKENS * TILE_TOKENS;
    tile.from = (at - base) & ~15u;
    tile.to = (min_u32(to - base, TILE_TOKENS) + 15) & ~15u;
    tile.stride = tile.to + SCORE_PAD;
    for (uint32_t h = 0; h < walk->heads; h++) {
      tile.base = h * walk->rows;
      find_pieces(c, walk->entry, walk->layer, walk->head + h, base, &tile);
      walk_tile(c, s, walk, &tile, base, min_u32(to, base + TILE_TOKENS));
    }
  }
}
