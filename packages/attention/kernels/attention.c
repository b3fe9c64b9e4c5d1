/*
 * Appends a step's k and v to the paged cache of one layer, then attends: for each slot and KV head, up to 64 query rows
 * (tokens of the chunk x query heads of the group) walk the visible pages together, tile by tile, with online softmax. Not
 * here: which blocks a slot has, and any check of what the host wrote; the host keeps that.
 *
 * A row's output doesn't depend on which rows share its walk: tiles begin at fixed positions, and every sum has one order.
 */
#include "append.h"
#include "tile.h"

static void append(const Config *c, Scratch *s, const Entry *e, uint32_t layer, const float *keys, uint32_t row_floats) {
  const uint32_t tokens = c->block_tokens, values = c->kv_heads * c->head_dim;
  for (uint32_t head = 0; head < c->kv_heads; head++) {
    const float *k = keys + head * c->head_dim;
    for (uint32_t i = 0; i < e->count; i++, k += row_floats) {
      const uint32_t position = e->position + i, t = position % tokens;
      char *page = page_at(c, e, position / tokens, layer, head);
      const float *key = pad(c, k, s->padded_key), *value = pad(c, k + values, s->padded_value);
      switch (c->dtype) {
        case KV_F32: append_float(KV_F32, c, page, t, key, value); break;
        case KV_F16: append_float(KV_F16, c, page, t, key, value); break;
        case KV_BF16: append_float(KV_BF16, c, page, t, key, value); break;
        case KV_INT8_PAIRS: append_int8(KV_INT8_PAIRS, c, page, t, key, value); break;
        default: append_int8(KV_INT8_DOT, c, page, t, key, value);
      }
    }
  }
}

/* The rows of a walk over all that they may see. */
static void attend_rows(const Config *c, Scratch *s, const Walk *walk, const float *qkv, float *out, float *totals) {
  const Entry *e = walk->entry;
  const uint32_t group = c->group, head = walk->head, first = walk->first, rows = walk->rows;
  const uint32_t row_floats = (group + 2) * c->kv_heads * c->head_dim, out_floats = group * c->kv_heads * c->head_dim;
  const uint32_t groups = group_count(c, rows);
  for (uint32_t g = 0; g < groups; g++) {
    const uint32_t start = group_start(rows, groups, g), end = group_start(rows, groups, g + 1);
    for (uint32_t r = start; r < end; r++) {
      const uint32_t token = (first + r) / group, h = (first + r) % group;
      pack_query(c, s, qkv + token * row_floats + (head * group + h) * c->head_dim,
                 (char *)s->query + start * query_row_bytes(c), end - start, r - start, s->query_scale + r);
    }
  }
  begin_rows(c, s, rows);
  walk_tokens(c, s, walk, 0, e->position + (first + rows - 1) / group + 1);
  for (uint32_t r = 0; r < rows; r++) {
    const uint32_t token = (first + r) / group, g = (first + r) % group;
    float *to = out + token * out_floats + (head * group + g) * c->head_dim;
    const float *from = s->output + r * c->dim, inverse = 1 / s->sum[r];
    for (uint32_t d = 0; d < c->head_dim; d++) to[d] = from[d] * inverse;
    if (totals) {
      float *total = totals + 2 * ((token * c->kv_heads + head) * group + g);
      total[0] = s->maximum[r];
      total[1] = s->sum[r];
    }
  }
}

/* What a worker must have of its own to call attend. */
EXPORT(scratch_bytes)
uint32_t scratch_bytes(void) { return sizeof(Scratch); }

/*
 * qkv [rows, (group + 2) kv_heads head_dim], out [rows, group kv_heads head_dim], rows in the order of the entries. totals,
 * unless null: [rows, group kv_heads, 2], the largest score and the sum of 2^(score - largest), in base 2.
 */
EXPORT(attend)
void attend(const Config *c, Scratch *s, const Step *step, uint32_t layer, const float *qkv, float *out, float *totals) {
  const uint32_t group = c->group, out_floats = group * c->kv_heads * c->head_dim;
  const uint32_t row_floats = (group + 2) * c->kv_heads * c->head_dim;
  const uint32_t most = row_limit(c);
  for (uint32_t i = 0; i < step->entry_count; i++) {
    const Entry *e = step->entries + i;
    const uint32_t rows = e->count * group;
    if (e->dead) {
      for (uint32_t j = 0; j < e->count * out_floats; j++) out[j] = 0;
      if (totals)
        for (uint32_t j = 0; j < rows * c->kv_heads * 2; j++) totals[j] = 0;
    } else {
      append(c, s, e, layer, qkv + out_floats, row_floats);
      for (uint32_t head = 0; head < c->kv_heads; head++)
        for (uint32_t first = 0; first < rows; first += most) {
          const Walk walk = {e, layer, head, first, min_u32(most, rows - first)};
          attend_rows(c, s, &walk, qkv, out, totals);
        }
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
