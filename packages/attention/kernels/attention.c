/*
 * Appends a step's k and v to the paged cache of one layer, then attends: for each slot and KV head, up to 64 query rows
 * (tokens of the chunk x query heads of the group) walk the visible pages together, tile by tile, with online softmax. Not
 * here: which blocks a slot has, and any check of what the host wrote; the host keeps that.
 */
#include "append.h"
#include "score.h"
#include "softmax.h"
#include "value.h"

/* Query rows that share one walk over KV. More reuse a tile better; these keep scratch in L2. */
#define MAX_ROWS 64
/* Few rows take four pages together (memory-bound), many take two (arithmetic-bound, less scratch). */
#define FEW_ROWS 8
#define MAX_SCORES (MAX_ROWS * 2 * MAX_BLOCK_TOKENS)
#define SCORE_PAD 16 /* floats between score rows, against rows that share cache sets */
/* Tokens of a stream whose keys stay in L1 while all row groups pass over them. */
#define KEY_CHUNK 16

static float query[MAX_ROWS * MAX_DIM];               /* packed by groups of up to four rows, [dim][rows] */
static float scores[MAX_SCORES + MAX_ROWS * SCORE_PAD]; /* [rows][tokens of the tile] */
static float weights[MAX_SCORES + 4];                 /* packed by groups, [tokens][rows] */
static float output[MAX_ROWS * MAX_DIM];              /* [rows][dim] */
static float value_scales[MAX_PAGES * MAX_BLOCK_TOKENS];
static float maximum[MAX_ROWS], sum[MAX_ROWS], alpha[MAX_ROWS], query_scale[MAX_ROWS], weight_scale[MAX_ROWS];
static float padded_key[MAX_DIM], padded_value[MAX_DIM];

INLINE uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* A head vector whose length isn't a multiple of 8, with zeros behind it. */
static const float *pad(const Config *c, const float *x, float *buffer) {
  if (c->dim == c->head_dim) return x;
  for (uint32_t d = 0; d < c->dim; d++) buffer[d] = d < c->head_dim ? x[d] : 0;
  return buffer;
}

static void append(const Config *c, const Entry *e, uint32_t layer, const float *keys, uint32_t row_floats) {
  const uint32_t dim = c->dim, tokens = c->block_tokens, values = c->kv_heads * c->head_dim;
  for (uint32_t head = 0; head < c->kv_heads; head++) {
    const float *k = keys + head * c->head_dim;
    for (uint32_t i = 0; i < e->count; i++, k += row_floats) {
      const uint32_t position = e->position + i, t = position % tokens;
      char *page = page_at(c, e, position / tokens, layer, head);
      const float *key = pad(c, k, padded_key), *value = pad(c, k + values, padded_value);
      switch (c->dtype) {
        case KV_F32: append_f32(dim, tokens, page, t, key, value); break;
        case KV_F16: append_f16(dim, tokens, page, t, key, value); break;
        default: append_int8(dim, tokens, page, t, key, value, (float *)(page + c->scale_offset));
      }
    }
  }
}

/* Query row r of a group of `rows`, scaled: f32 and f16 as floats, int8 as int16 with a scale of its own. */
static void pack_query(const Config *c, const float *q, char *group, uint32_t rows, uint32_t r, float *scale) {
  if (c->dtype != KV_INT8) {
    const float factor = c->scale * (c->dtype == KV_F16 ? F16_FACTOR : 1);
    float *to = (float *)group + r;
    for (uint32_t d = 0; d < c->dim; d++) to[d * rows] = d < c->head_dim ? q[d] * factor : 0;
    return;
  }
  float largest = 0;
  for (uint32_t d = 0; d < c->head_dim; d++) {
    const float magnitude = __builtin_fabsf(q[d]);
    if (magnitude > largest) largest = magnitude;
  }
  /* 32767 * 127 * MAX_DIM stays within int32. */
  const float inverse = largest > 0x1p-110f ? 32767.0f / largest : 0;
  int16_t *to = (int16_t *)group + 2 * r;
  for (uint32_t d = 0; d < c->dim; d++)
    to[d / 2 * 2 * rows + d % 2] = d < c->head_dim ? (int16_t)__builtin_nearbyintf(q[d] * inverse) : 0;
  *scale = largest / 32767.0f * c->scale;
}

/* One tile: `pages` pages of `tokens` tokens each (a multiple of 8), of which `written` of the last page hold data. */
typedef struct {
  const char *page[MAX_PAGES];
  uint32_t pages;
  uint32_t tokens;
  uint32_t written;
} Tile;

static void score_rows(const Config *c, const Tile *tile, uint32_t rows, uint32_t stride) {
  const uint32_t quad = 4 * c->dim * ELEMENT_BYTES(c->dtype), n = tile->tokens;
  const uint32_t query_row = c->dim * (c->dtype == KV_INT8 ? 2 : 4);
  const uint32_t streams = tile->pages == 4 && rows == 1 ? 4 : 2;
  const uint32_t chunk = rows <= 4 ? n : min_u32(n, KEY_CHUNK);
  for (uint32_t first = 0; first < tile->pages; first += streams) {
    for (uint32_t t = 0; t < n; t += chunk) {
      const uint32_t length = min_u32(chunk, n - t);
      ScoreRun run = {.quad_bytes = quad, .row_stride = stride};
      const uint32_t interleaved = tile->pages == 1; /* both streams in one page, quad by quad */
      for (uint32_t j = 0; j < streams; j++) {
        const char *page = tile->page[interleaved ? 0 : first + j];
        const uint32_t at = interleaved ? t + 4 * j : t;
        run.keys[j] = page + at / 4 * quad;
        run.scales[j] = (const float *)(page + c->scale_offset) + at;
        run.scores[j] = scores + (interleaved ? at : (first + j) * n + at);
      }
      run.key_skip = interleaved ? quad : 0;
      run.token_step = interleaved ? 8 : 4;
      run.steps = length / run.token_step;
      for (uint32_t r = 0; r < rows; r += 4) {
        ScoreFn *score = streams == 4 ? score_four_pages_fns[c->dtype] : score_fns[c->dtype][min_u32(4, rows - r) - 1];
        score((const char *)query + r * query_row, query_scale + r, &run);
        for (uint32_t j = 0; j < streams; j++) run.scores[j] += 4 * stride;
      }
    }
  }
}

/* Hides what row r may not see: [from, to) of the tile's tokens is visible. */
static void mask(float *row, uint32_t tokens, int32_t from, int32_t to) {
  for (int32_t t = 0; t < from && t < (int32_t)tokens; t++) row[t] = MASKED;
  for (int32_t t = to < 0 ? 0 : to; t < (int32_t)tokens; t++) row[t] = MASKED;
}

static void gather_value_scales(const Config *c, const Tile *tile) {
  float *to = value_scales;
  for (uint32_t p = 0; p < tile->pages; p++) {
    const float *from = (const float *)(tile->page[p] + c->scale_offset) + c->block_tokens;
    for (uint32_t t = 0; t < tile->tokens; t++) *to++ = t < tile->written ? from[t] : 0;
  }
}

static void add_values(const Config *c, const Tile *tile, uint32_t rows) {
  const uint32_t n = tile->tokens, pages = tile->pages, weight_bytes = c->dtype == KV_INT8 ? 2 : 4;
  const uint32_t panel_bytes = c->block_tokens * 8 * ELEMENT_BYTES(c->dtype);
  ValueRun run = {.tokens = c->dtype == KV_F32 ? tile->written : n, .out_stride = c->dim};
  for (uint32_t p = 0; p < pages; p++) run.values[p] = tile->page[p] + c->value_offset;
  for (uint32_t d = 0; d < c->dim; d += 8) {
    for (uint32_t r = 0; r < rows; r += 4) {
      const uint32_t group = min_u32(4, rows - r);
      run.weight_page_bytes = n * group * weight_bytes;
      value_fns[c->dtype][pages / 2][group - 1]((const char *)weights + r * pages * n * weight_bytes, &run,
                                                d / 8 * panel_bytes, output + r * c->dim + d, alpha + r,
                                                weight_scale + r);
    }
  }
}

/* `rows` query rows from row `first` of the entry (row = token * group + query head) over all that they may see. */
static void attend_rows(const Config *c, const Entry *e, uint32_t layer, uint32_t head, uint32_t first, uint32_t rows,
                        const float *qkv, float *out, float *totals) {
  const uint32_t group = c->group, dim = c->dim, T = c->block_tokens, window = c->windows[layer];
  const uint32_t row_floats = (group + 2) * c->kv_heads * c->head_dim, out_floats = group * c->kv_heads * c->head_dim;
  const uint32_t query_row = dim * (c->dtype == KV_INT8 ? 2 : 4);
  for (uint32_t r = 0; r < rows; r++) {
    const uint32_t token = (first + r) / group, g = (first + r) % group, block = r & ~3u;
    pack_query(c, qkv + token * row_floats + (head * group + g) * c->head_dim, (char *)query + block * query_row,
               min_u32(4, rows - block), r - block, query_scale + r);
    maximum[r] = NO_MAXIMUM;
    sum[r] = 0;
  }
  for (uint32_t i = 0; i < rows * dim; i += 4) STORE(output + i, ZERO);

  const uint32_t earliest = e->position + first / group, end = e->position + (first + rows - 1) / group + 1;
  const uint32_t begin = window != 0 && earliest + 1 > window ? earliest + 1 - window : 0;
  const uint32_t together = rows <= FEW_ROWS ? 4 : 2;
  for (uint32_t block = begin / T; block * T < end;) {
    const uint32_t full = end / T - block; /* whole pages left */
    Tile tile = {.pages = full >= 4 && together == 4 ? 4 : full >= 2 ? 2 : 1, .tokens = T, .written = T};
    if (full == 0) {
      tile.written = end % T;
      tile.tokens = (tile.written + 7) & ~7u;
    }
    for (uint32_t p = 0; p < tile.pages; p++) tile.page[p] = page_at(c, e, block + p, layer, head);
    const uint32_t base = block * T, tokens = tile.pages * tile.tokens, stride = tokens + SCORE_PAD;
    score_rows(c, &tile, rows, stride);
    if (c->dtype == KV_INT8) gather_value_scales(c, &tile);
    for (uint32_t r = 0; r < rows; r++) {
      const int32_t to = (int32_t)(e->position + (first + r) / group + 1 - base);
      const int32_t from = window != 0 ? to - (int32_t)window : 0;
      if (from > 0 || to < (int32_t)tokens) mask(scores + r * stride, tokens, from, to);
    }
    for (uint32_t r = 0; r < rows; r += 4) {
      SoftmaxRun run = {scores + r * stride, stride, tokens,
                        (char *)weights + r * tokens * (c->dtype == KV_INT8 ? 2 : 4), value_scales,
                        maximum + r, sum + r, alpha + r, weight_scale + r};
      softmax_fns[c->dtype][min_u32(4, rows - r) - 1](&run);
    }
    add_values(c, &tile, rows);
    block += tile.pages;
  }

  for (uint32_t r = 0; r < rows; r++) {
    const uint32_t token = (first + r) / group, g = (first + r) % group;
    float *to = out + token * out_floats + (head * group + g) * c->head_dim;
    const float *from = output + r * dim, inverse = 1 / sum[r];
    for (uint32_t d = 0; d < c->head_dim; d++) to[d] = from[d] * inverse;
    if (totals) {
      float *total = totals + 2 * ((token * c->kv_heads + head) * group + g);
      total[0] = maximum[r];
      total[1] = sum[r];
    }
  }
}

/*
 * qkv [rows, (group + 2) kv_heads head_dim], out [rows, group kv_heads head_dim], rows in the order of the entries. totals,
 * unless null: [rows, group kv_heads, 2], the largest score and the sum of 2^(score - largest), in base 2.
 */
EXPORT(attend)
void attend(const Config *c, const Step *step, uint32_t layer, const float *qkv, float *out, float *totals) {
  const uint32_t group = c->group, out_floats = group * c->kv_heads * c->head_dim;
  const uint32_t row_floats = (group + 2) * c->kv_heads * c->head_dim;
  for (uint32_t i = 0; i < step->entry_count; i++) {
    const Entry *e = step->entries + i;
    const uint32_t rows = e->count * group;
    if (e->dead) {
      for (uint32_t j = 0; j < e->count * out_floats; j++) out[j] = 0;
      if (totals)
        for (uint32_t j = 0; j < rows * c->kv_heads * 2; j++) totals[j] = 0;
    } else {
      append(c, e, layer, qkv + out_floats, row_floats);
      for (uint32_t head = 0; head < c->kv_heads; head++)
        for (uint32_t first = 0; first < rows; first += MAX_ROWS)
          attend_rows(c, e, layer, head, first, min_u32(MAX_ROWS, rows - first), qkv, out, totals);
    }
    if (totals) totals += e->count * group * c->kv_heads * 2;
    qkv += e->count * row_floats;
    out += e->count * out_floats;
  }
}

/* Reads memory in order, as fast as this thread can: what the kernels' speed is measured against. bytes: a multiple of 256. */
EXPORT(read_memory)
uint32_t read_memory(const char *p, uint32_t bytes) {
  Vec acc[8];
  UNROLL for (int i = 0; i < 8; i++) acc[i] = ZERO;
  ROLLED for (const char *end = p + bytes; p != end; p += 256) {
    UNROLL for (int i = 0; i < 16; i++) {
      acc[i % 8] = wasm_v128_xor(acc[i % 8], LOAD(p + 16 * i));
      PIN(acc[i % 8]);
    }
  }
  UNROLL for (int i = 1; i < 8; i++) acc[0] = wasm_v128_xor(acc[0], acc[i]);
  return wasm_i32x4_extract_lane(acc[0], 0) ^ wasm_i32x4_extract_lane(acc[0], 1);
}
