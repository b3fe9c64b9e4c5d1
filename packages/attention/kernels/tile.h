/*
 * One tile of KV: neighbouring pages of one slot, layer and KV head, that up to 64 query rows read together. Packs queries, computes
 * scores, applies softmax and adds values to the rows' output; the order of every sum is fixed by positions alone.
 */
#pragma once
#include "score.h"
#include "softmax.h"
#include "value.h"

/* Query rows that share one walk over KV. More reuse a tile better; these keep scratch in L2. */
#define MAX_ROWS 64
/* Pages of a tile: four random 64 KiB pages at once reach 95 % of the sequential read. */
#define TILE_PAGES 4
#define SCORE_FLOATS (MAX_ROWS * 1024)
#define SCORE_PAD 16 /* floats between score rows, against rows that share cache sets */
/*
 * Tokens whose keys all row groups pass over before the next ones: in prefill they stay in L1. For two groups fewer calls matter
 * more: eight f32 heads from DRAM do 36 GFLOP/s with 16 tokens, 41 with 64.
 */
#define KEY_TOKENS(groups) ((groups) <= 2 ? 64 : 16)

/* What a worker needs while it attends; its own, so that several may work on one memory. */
typedef struct {
  float query[MAX_ROWS * MAX_DIM];                   /* packed by groups of rows, [dim][rows] */
  float scores[SCORE_FLOATS + MAX_ROWS * SCORE_PAD]; /* [rows][tokens of the tile] */
  float weights[SCORE_FLOATS + 4];                   /* packed by groups, [tokens][rows] */
  float output[MAX_ROWS * MAX_DIM];                  /* [rows][dim] */
  float value_scales[4 * MAX_BLOCK_TOKENS];
  QueryScale query_scale[MAX_ROWS];
  float maximum[MAX_ROWS], sum[MAX_ROWS], alpha[MAX_ROWS], weight_scale[MAX_ROWS], ones[MAX_ROWS];
  float padded_key[MAX_DIM], padded_value[MAX_DIM];
} Scratch;

INLINE uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* A head vector whose length isn't a multiple of 8, with zeros behind it. */
static const float *pad(const Config *c, const float *x, float *buffer) {
  if (c->dim == c->head_dim) return x;
  for (uint32_t d = 0; d < c->dim; d++) buffer[d] = d < c->head_dim ? x[d] : 0;
  return buffer;
}

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

/* Query row r of a group of `rows`, scaled: as floats, or as integers with a scale of its own. */
static void pack_query(const Config *c, Scratch *s, const float *q, char *group, uint32_t rows, uint32_t r, QueryScale *scale) {
  q = pad(c, q, s->padded_key);
  if (!IS_INT8(c->dtype)) {
    const float factor = c->scale * (c->dtype == KV_F16 ? F16_FACTOR : 1);
    float *to = (float *)group + r;
    if (c->dtype == KV_F32) {
      for (uint32_t d = 0; d < c->dim; d++) to[d * rows] = q[d] * factor;
    } else { /* in the order of the halves */
      for (uint32_t d = 0; d < c->dim; d++) to[((d & ~7u) + d % 4 * 2 + d % 8 / 4) * rows] = q[d] * factor;
    }
    return;
  }
  /* Pairs: 32767 * 127 * MAX_DIM stays within int32. */
  const float most = largest(q, c->dim), limit = c->dtype == KV_INT8_DOT ? 127.0f : 32767.0f;
  const float inverse = most > 0x1p-110f ? limit / most : 0;
  int32_t total = 0;
  for (uint32_t d = 0; d < c->dim; d++) {
    const int32_t x = (int32_t)__builtin_nearbyintf(q[d] * inverse);
    total += x;
    if (c->dtype == KV_INT8_DOT) ((int8_t *)group)[(d / 4 * rows + r) * 4 + d % 4] = (int8_t)x;
    else ((int16_t *)group)[(d / 2 * rows + r) * 2 + d % 2] = (int16_t)x;
  }
  scale->scale = most / limit * c->scale;
  scale->bias = -128 * total;
}

/* Neighbouring pages of one tile. All but the last are full; of it `written` tokens hold data. */
typedef struct {
  const char *page[TILE_PAGES];
  uint32_t pages;
  uint32_t first;   /* place of the first one in the slot's table */
  uint32_t written;
  uint32_t tokens;  /* in all, the last page's rounded up to what softmax takes */
} Tile;

/* Tokens [from, to) of `pages` pages from page i of the tile on. Of one page the even and the odd quads are streams. */
static void score_pages(const Config *c, Scratch *s, const Tile *tile, uint32_t rows, uint32_t i, uint32_t pages, uint32_t from,
                        uint32_t to) {
  const uint32_t quad = 4 * c->dim * ELEMENT_BYTES(c->dtype), groups = group_count(c, rows);
  const uint32_t chunk = groups == 1 ? to - from : KEY_TOKENS(groups), streams = pages == 1 ? 2 : pages, split = streams / pages;
  ScoreRun run = {.quad_bytes = quad, .key_skip = (split - 1) * quad, .token_step = 4 * split,
                  .row_stride = tile->tokens + SCORE_PAD};
  for (uint32_t at = from; at < to; at += chunk) {
    run.quads = min_u32(chunk, to - at) / run.token_step;
    for (uint32_t g = 0; g < groups; g++) {
      const uint32_t r = group_start(rows, groups, g), size = group_start(rows, groups, g + 1) - r;
      for (uint32_t n = 0; n < streams; n++) {
        const uint32_t page = i + n / split, t = at + n % split * 4;
        run.keys[n] = tile->page[page] + t / 4 * quad;
        run.scales[n] = (const float *)(tile->page[page] + c->scale_offset) + t;
        run.scores[n] = s->scores + r * run.row_stride + page * c->block_tokens + t;
      }
      score_fns[c->dtype][streams / 4][size - 1]((const char *)s->query + r * query_row_bytes(c), s->query_scale + r, &run);
    }
  }
}

static void score_tiles(const Config *c, Scratch *s, const Tile *tile, uint32_t rows) {
  const uint32_t T = c->block_tokens, last = tile->tokens - (tile->pages - 1) * T;
  for (uint32_t i = 0; i < tile->pages;) {
    const uint32_t left = tile->pages - i, full = left - (last < T);
    const uint32_t pages = rows == 1 && full == 4 ? 4 : left >= 2 ? 2 : 1;
    if (pages <= full || pages == 1) {
      score_pages(c, s, tile, rows, i, pages, 0, full == 0 ? last : T);
    } else {
      score_pages(c, s, tile, rows, i, 2, 0, last);
      score_pages(c, s, tile, rows, i, 1, last, T);
    }
    i += pages;
  }
}

/* Hides what row r may not see: [from, to) of the tile's tokens is visible. */
static void mask(float *row, uint32_t tokens, int32_t from, int32_t to) {
  for (int32_t t = 0; t < from && t < (int32_t)tokens; t++) row[t] = MASKED;
  for (int32_t t = to < 0 ? 0 : to; t < (int32_t)tokens; t++) row[t] = MASKED;
}

static void gather_value_scales(const Config *c, Scratch *s, const Tile *tile) {
  float *to = s->value_scales;
  for (uint32_t p = 0; p < tile->pages; p++) {
    const float *from = (const float *)(tile->page[p] + c->scale_offset) + c->block_tokens;
    const uint32_t written = p + 1 == tile->pages ? tile->written : c->block_tokens;
    for (uint32_t t = 0; t < c->block_tokens; t++) *to++ = t < written ? from[t] : 0;
  }
}

/*
 * `pages` pages from page i of the tile on: `tokens` tokens of each, and `rest` of the first two beyond those. decay applies to
 * the output before.
 */
static void add_value_pages(const Config *c, Scratch *s, const Tile *tile, uint32_t rows, const float *decay, uint32_t i,
                            uint32_t pages, int kind, uint32_t tokens, uint32_t rest, uint32_t rest_of_second) {
  const uint32_t T = c->block_tokens, groups = group_count(c, rows), bytes = ELEMENT_BYTES(c->dtype);
  for (uint32_t d = 0; d < c->dim; d += 8) {
    for (uint32_t g = 0; g < groups; g++) {
      const uint32_t r = group_start(rows, groups, g), size = group_start(rows, groups, g + 1) - r;
      ValueRun run = {.tokens = tokens, .rest = {rest, rest_of_second}, .out_stride = c->dim, .output = s->output + r * c->dim,
                      .decay = decay + r, .weight_scale = s->weight_scale + r};
      for (uint32_t n = 0; n < pages; n++) {
        run.values[n] = tile->page[i + n] + c->value_offset + d * T * bytes;
        run.weights[n] = (const char *)s->weights + (r * tile->tokens + (i + n) * T * size) * weight_bytes(c);
      }
      value_fns[c->dtype][kind][size - 1](&run, d);
    }
  }
}

static void add_values(const Config *c, Scratch *s, const Tile *tile, uint32_t rows) {
  /* What isn't written may be NaN in f32, which no weight undoes. */
  const uint32_t T = c->block_tokens, last = c->dtype == KV_F32 ? tile->written : tile->tokens - (tile->pages - 1) * T;
  const float *decay = s->alpha;
  for (uint32_t i = 0; i < tile->pages; decay = s->ones) {
    const uint32_t left = tile->pages - i, full = left - (last < T);
    if (c->group > MHA_GROUP && (tile->first + i) % 2 == 0 && left >= 2) {
      const uint32_t second = full >= 2 ? T : last, common = second & ~3u;
      add_value_pages(c, s, tile, rows, decay, i, 2, VALUE_PAIR, common, T - common, second - common);
      i += 2;
    } else if (c->group <= MHA_GROUP && full >= (rows == 1 ? 4 : 2) && rows <= 3) {
      const uint32_t pages = rows == 1 ? 4 : 2;
      add_value_pages(c, s, tile, rows, decay, i, pages, VALUE_APART, T, 0, 0);
      i += pages;
    } else {
      add_value_pages(c, s, tile, rows, decay, i, 1, VALUE_PAGE, full == 0 ? last : T, 0, 0);
      i++;
    }
  }
}

/* Query rows of one slot and KV head that walk together: row = token * group + query head, from row `first` of the entry. */
typedef struct {
  const Entry *entry;
  uint32_t layer, head, first, rows;
} Walk;

/* Of one walk at most: so many that their scores fit. */
static uint32_t most_rows(const Config *c) { return min_u32(MAX_ROWS, SCORE_FLOATS / (TILE_PAGES * c->block_tokens)); }

/* Nothing was seen yet. */
static void begin_rows(const Config *c, Scratch *s, uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++) {
    s->maximum[r] = NO_MAXIMUM;
    s->sum[r] = 0;
    s->ones[r] = 1;
  }
  for (uint32_t i = 0; i < rows * c->dim; i += 4) STORE(s->output + i, ZERO);
}

/*
 * Takes the rows, whose queries are packed, over those of the tokens [from, to) that each may see: their maximum, sum and output
 * grow. `from` is where a tile begins; all of the tokens are written.
 */
static void walk_tokens(const Config *c, Scratch *s, const Walk *walk, uint32_t from, uint32_t to) {
  const Entry *e = walk->entry;
  const uint32_t group = c->group, T = c->block_tokens, window = c->windows[walk->layer], rows = walk->rows;
  const uint32_t groups = group_count(c, rows), earliest = e->position + walk->first / group;
  const uint32_t begin = window != 0 && earliest + 1 > window ? earliest + 1 - window : 0;
  if (begin > from) from = begin;
  for (uint32_t page = from / T; page * T < to;) {
    Tile tile = {.first = page, .pages = min_u32((page / TILE_PAGES + 1) * TILE_PAGES, (to + T - 1) / T) - page};
    tile.written = min_u32(T, to - (page + tile.pages - 1) * T);
    const uint32_t unit = TOKEN_UNIT(c->dtype);
    tile.tokens = (tile.pages - 1) * T + (tile.written + unit - 1) / unit * unit;
    for (uint32_t p = 0; p < tile.pages; p++) tile.page[p] = page_at(c, e, page + p, walk->layer, walk->head);
    const uint32_t base = page * T, stride = tile.tokens + SCORE_PAD;
    score_tiles(c, s, &tile, rows);
    if (IS_INT8(c->dtype)) gather_value_scales(c, s, &tile);
    for (uint32_t r = 0; r < rows; r++) {
      const uint32_t seen = e->position + (walk->first + r) / group + 1;
      const int32_t end = (int32_t)(min_u32(seen, to) - base), start = window != 0 ? (int32_t)(seen - window - base) : 0;
      if (start > 0 || end < (int32_t)tile.tokens) mask(s->scores + r * stride, tile.tokens, start, end);
    }
    for (uint32_t g = 0; g < groups; g++) {
      const uint32_t r = group_start(rows, groups, g), n = group_start(rows, groups, g + 1) - r;
      SoftmaxRun run = {s->scores + r * stride, stride, tile.tokens,
                        (char *)s->weights + r * tile.tokens * weight_bytes(c), s->value_scales,
                        s->maximum + r, s->sum + r, s->alpha + r, s->weight_scale + r};
      softmax_fns[c->dtype][n - 1](&run);
    }
    add_values(c, s, &tile, rows);
    page += tile.pages;
  }
}
