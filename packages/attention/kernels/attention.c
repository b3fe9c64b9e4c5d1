/*
 * Runs tasks of a step on one layer: appends their k and v to the paged cache, then attends. For each slot and KV head up to 64
 * query rows (tokens of the chunk x query heads of the group) walk the visible pages together, tile by tile, with online softmax.
 * Not here: which blocks a slot has, how a step is cut, and any check of what the host wrote; the host keeps that.
 *
 * A row's output depends neither on which rows share its walk nor on how the step was cut: tiles begin at fixed positions,
 * every sum has one order, and contexts are always folded split by split.
 */
#include "append.h"
#include "rows.h"
#include "tile.h"

/* What a worker has of its own. */
typedef struct {
  Scratch walk;
  float output[MAX_ROWS * MAX_DIM]; /* [rows][dim], of the splits folded so far */
  float maximum[MAX_ROWS], sum[MAX_ROWS];
} Worker;

/* Query rows of one entry and KV head: row = token * group + query head. */
typedef struct {
  const Config *config;
  Worker *worker;
  const Step *step;
  const Entry *entry;
  uint32_t layer, head;
} Part;

/* An online softmax's state of some rows. */
typedef struct {
  float *output; /* [rows][stride] */
  uint32_t stride;
  float *maximum, *sum; /* [rows][scalar_stride] */
  uint32_t scalar_stride;
} Rows;

static void append(const Part *p, uint32_t from, uint32_t to) {
  const Config *c = p->config;
  const Entry *e = p->entry;
  Scratch *s = &p->worker->walk;
  const uint32_t dim = c->dim, heads = (c->group + 2) * c->kv_heads;
  const uint32_t key_head = c->group * c->kv_heads + p->head;
  if (from < e->position) from = e->position;
  to = min_u32(to, e->position + e->count);
  for (uint32_t position = from; position < to; position++) {
    const char *row = p->step->qkv + (e->first_row + position - e->position) * c->qkv_row_bytes;
    const Place place = place_of(c, e, position, p->layer, p->head);
    const float *key = decode_head(c->row_dtype, c->head_dim, dim, row, heads, key_head, s->padded_key);
    const float *value = decode_head(c->row_dtype, c->head_dim, dim, row, heads, key_head + c->kv_heads, s->padded_value);
    switch (c->dtype) {
      case KV_F32: append_float(KV_F32, c, place.page, place.token, key, value); break;
      case KV_F16: append_float(KV_F16, c, place.page, place.token, key, value); break;
      case KV_BF16: append_float(KV_BF16, c, place.page, place.token, key, value); break;
      case KV_INT8_PAIRS: append_int8(KV_INT8_PAIRS, c, place.page, place.token, key, value); break;
      default: append_int8(KV_INT8_DOT, c, place.page, place.token, key, value);
    }
  }
}

/* To the scratch's rows from `base` on. */
static void pack_queries(const Part *p, uint32_t base, uint32_t first, uint32_t rows) {
  const Config *c = p->config;
  Scratch *s = &p->worker->walk;
  const uint32_t group = c->group, heads = (group + 2) * c->kv_heads, groups = group_count(c, rows);
  for (uint32_t g = 0; g < groups; g++) {
    const uint32_t start = group_start(rows, groups, g), end = group_start(rows, groups, g + 1);
    for (uint32_t r = start; r < end; r++) {
      const uint32_t token = (first + r) / group, h = (first + r) % group;
      const char *row = p->step->qkv + (p->entry->first_row + token) * c->qkv_row_bytes;
      const float *q = decode_head(c->row_dtype, c->head_dim, c->dim, row, heads, p->head * group + h, s->padded_value);
      pack_query(c, s, q, (char *)s->query + (base + start) * query_row_bytes(c), end - start, r - start, s->query_scale + base + r);
    }
  }
}

/* ln x for x >= 1 with a relative error of 2e-9: x = 2^e f, and ln f = 2 artanh((f - 1) / (f + 1)). */
static double natural_log(float x) {
  union {
    float f;
    uint32_t u;
  } bits = {x};
  const int32_t exponent = (int32_t)(bits.u - 0x3f3504f3) >> 23; /* f in [sqrt(1/2), sqrt(2)) */
  bits.u -= (uint32_t)exponent << 23;
  const double s = (bits.f - 1.0) / (bits.f + 1.0), t = s * s;
  return exponent * 0.6931471805599453 + 2 * s * (1 + t * (1.0 / 3 + t * (1.0 / 5 + t * (1.0 / 7 + t / 9))));
}

/* Finished rows go where the step has them. Spoils `rows`. */
static void write_rows(const Part *p, const Rows *rows, uint32_t first, uint32_t count) {
  const Config *c = p->config;
  const uint32_t group = c->group, heads = group * c->kv_heads;
  for (uint32_t r = 0; r < count; r++) {
    const uint32_t token = p->entry->first_row + (first + r) / group, head = p->head * group + (first + r) % group;
    float *o = rows->output + r * rows->stride;
    const float sum = rows->sum[r * rows->scalar_stride];
    const Vec inverse = SPLAT(1 / sum);
    for (uint32_t d = 0; d < c->dim; d += 4) STORE(o + d, sum == 0 ? ZERO : MUL(LOAD(o + d), inverse));
    encode_head(c->row_dtype, c->head_dim, c->dim, o, p->step->output + token * c->output_row_bytes, heads, head);
    if (p->step->log_sum_exp) {
      const double maximum = rows->maximum[r * rows->scalar_stride];
      p->step->log_sum_exp[token * heads + head] =
          sum == 0 ? -__builtin_inff() : (float)(maximum * 0.6931471805599453 + natural_log(sum));
    }
  }
}

static float exp2_of(float x) {
  const Exp2 exp2 = exp2_of_degree(5);
  return wasm_f32x4_extract_lane(exp2_nonpositive(5, &exp2, SPLAT(x)), 0);
}

/* Adds the softmaxes of a later split. One that saw nothing changes no bit, and the first one that did is taken as it is. */
static void fold_rows(uint32_t dim, const Rows *to, const Rows *from, uint32_t count) {
  for (uint32_t r = 0; r < count; r++) {
    float *maximum = to->maximum + r * to->scalar_stride, *sum = to->sum + r * to->scalar_stride;
    const float later = from->maximum[r * from->scalar_stride], later_sum = from->sum[r * from->scalar_stride];
    if (later_sum == 0) continue;
    const float top = *sum == 0 || later > *maximum ? later : *maximum;
    const float a = *sum == 0 ? 0 : exp2_of(*maximum - top), b = exp2_of(later - top);
    float *o = to->output + r * to->stride;
    const float *x = from->output + r * from->stride;
    for (uint32_t d = 0; d < dim; d += 4)
      STORE(o + d, *sum == 0 ? LOAD(x + d) : ADD(MUL(LOAD(o + d), SPLAT(a)), MUL(LOAD(x + d), SPLAT(b))));
    *sum = *sum * a + later_sum * b;
    *maximum = top;
  }
}

/* The first token that a row at `position` sees. */
static uint32_t seen_from(const Part *p, uint32_t position) {
  const uint32_t window = p->config->windows[p->layer];
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

/* A walk's rows in the partials of an entry and head, which begin with the first split that is seen. */
static Rows partial_rows(const Part *p, const Task *task, uint32_t split, uint32_t first) {
  const uint32_t stride = p->config->dim + 4, place = split - seen_from(p, p->entry->position) / SPLIT_TOKENS;
  float *o = task->partials + (place * p->entry->count * p->config->group + first) * stride;
  return (Rows){o, stride, o + p->config->dim, o + p->config->dim + 1, stride};
}

static void clear_rows(const Rows *rows, uint32_t count) {
  for (uint32_t r = 0; r < count; r++) {
    rows->sum[r * rows->scalar_stride] = 0;
    rows->maximum[r * rows->scalar_stride] = NO_MAXIMUM;
  }
}

/* The same rows of the head that is `heads` further. */
static Part further(const Part *p, uint32_t heads) {
  Part part = *p;
  part.head += heads;
  return part;
}

/*
 * Splits [first_split, end_split) of `count` rows from `first` on of each of `heads` heads: to their partials (then of one head), or,
 * where those are all splits, finished.
 */
static void attend_rows(const Part *p, const Task *task, uint32_t heads, uint32_t first, uint32_t count, uint32_t first_split, uint32_t end_split) {
  const Config *c = p->config;
  const Entry *e = p->entry;
  Worker *w = p->worker;
  Scratch *s = &w->walk;
  const Walk walk = {e, p->layer, p->head, heads, first, count};
  const Rows here = {s->output, c->dim, s->maximum, s->sum, 1}, folded = {w->output, c->dim, w->maximum, w->sum, 1};
  const uint32_t begin = seen_from(p, e->position + first / c->group), all = heads * count;
  const uint32_t end = min_u32(e->stored, e->position + (first + count - 1) / c->group + 1);
  const uint32_t first_seen = begin / SPLIT_TOKENS, end_seen = begin < end ? (end - 1) / SPLIT_TOKENS + 1 : first_seen;
  for (uint32_t h = 0; h < heads; h++) {
    const Part part = further(p, h);
    pack_queries(&part, h * count, first, count);
  }
  clear_rows(&folded, all);
  const Rows *finished = &folded;
  for (uint32_t split = first_split; split < end_split; split++) {
    const int seen = split >= first_seen && split < end_seen;
    if (seen) {
      begin_rows(c, s, all);
      walk_tokens(c, s, &walk, split * SPLIT_TOKENS, min_u32(end, (split + 1) * SPLIT_TOKENS));
    }
    if (task->partials) {
      const Rows partial = partial_rows(p, task, split, first);
      clear_rows(&partial, count);
      if (seen) fold_rows(c->dim, &partial, &here, count);
    } else if (end_seen - first_seen == 1) {
      if (seen) finished = &here;
    } else if (seen) {
      fold_rows(c->dim, &folded, &here, all);
    }
  }
  for (uint32_t h = 0; h < heads && !task->partials; h++) {
    const Part part = further(p, h);
    const uint32_t row = h * count;
    const Rows rows = {finished->output + row * c->dim, c->dim, finished->maximum + row, finished->sum + row, 1};
    write_rows(&part, &rows, first, count);
  }
}

/* All splits of an entry and head are in its partials. */
static void fold_partials(const Part *p, const Task *task, uint32_t splits) {
  const uint32_t rows = p->entry->count * p->config->group, first = seen_from(p, p->entry->position) / SPLIT_TOKENS;
  const Rows all = partial_rows(p, task, first, 0);
  for (uint32_t split = first + 1; split < splits; split++) {
    const Rows later = partial_rows(p, task, split, 0);
    fold_rows(p->config->dim, &all, &later, rows);
  }
  write_rows(p, &all, 0, rows);
}

static void write_nothing(const Part *p, uint32_t first, uint32_t end) {
  const Config *c = p->config;
  const Rows none = {p->worker->output, c->dim, p->worker->maximum, p->worker->sum, 1};
  clear_rows(&none, 1);
  for (uint32_t row = first; row < end; row++) write_rows(p, &none, row, 1);
}

static void attend_heads(const Part *p, const Task *task, uint32_t heads) {
  const Config *c = p->config;
  const Entry *e = p->entry;
  const uint32_t splits = (min_u32(e->position + e->count, e->stored) + SPLIT_TOKENS - 1) / SPLIT_TOKENS;
  const uint32_t first_split = task->partials ? task->first_split : 0, end_split = task->partials ? task->end_split : splits;
  const uint32_t first_row = task->first_row, end_row = min_u32(task->end_row, e->count * c->group), most = most_rows(c);
  const int dead = e->flags & ENTRY_DEAD;
  if (!dead) {
    for (uint32_t h = 0; h < heads && !task->appended && !(e->flags & ENTRY_VISIT); h++) {
      const Part part = further(p, h);
      append(&part, first_split * SPLIT_TOKENS, end_split * SPLIT_TOKENS);
    }
    for (uint32_t row = first_row; row < end_row; row += most)
      attend_rows(p, task, heads, row, min_u32(most, end_row - row), first_split, end_split);
  }
  if (task->partials) {
    /* Orders the partials of other workers before what follows. */
    if (__atomic_add_fetch(task->counter, 1, __ATOMIC_SEQ_CST) != task->parts) return;
    __atomic_store_n(task->counter, 0, __ATOMIC_SEQ_CST);
    if (!dead) fold_partials(p, task, splits);
  }
  for (uint32_t h = 0; h < heads && dead; h++) {
    const Part part = further(p, h);
    write_nothing(&part, first_row, end_row);
  }
}

/*
 * KV heads that walk together: their pages are neighbours, so that what is read from memory lies in longer pieces.
 */
static uint32_t heads_together(const Config *c, const Task *task, const Entry *e) {
  const uint32_t rows = min_u32(task->end_row, e->count * c->group) - task->first_row;
  return task->partials || rows == 0 || 2 * rows > MAX_ROWS ? 1 : MAX_ROWS / rows;
}

/* What a worker must have of its own to call attend. */
EXPORT(scratch_bytes)
uint32_t scratch_bytes(void) { return sizeof(Worker); }

EXPORT(attend)
void attend(const Config *c, Worker *worker, const Step *step, uint32_t layer, uint32_t first_task, uint32_t end_task) {
  for (const Task *task = step->tasks + first_task; task != step->tasks + end_task; task++)
    for (uint32_t entry = task->first_entry; entry < task->end_entry; entry++) {
      const uint32_t together = heads_together(c, task, step->entries + entry);
      for (uint32_t head = task->first_head; head < task->end_head; head += together) {
        const Part part = {c, worker, step, step->entries + entry, layer, head};
        attend_heads(&part, task, min_u32(together, task->end_head - head));
      }
    }
}

/* floats [count, heads, head_dim] to rows of row_bytes. */
EXPORT(encode_rows)
void encode_rows(uint32_t dtype, uint32_t heads, uint32_t head_dim, const float *floats, char *rows, uint32_t row_bytes, uint32_t count) {
  const uint32_t dim = (head_dim + 7) & ~7u;
  float buffer[MAX_DIM];
  for (; count > 0; count--, rows += row_bytes)
    for (uint32_t head = 0; head < heads; head++, floats += head_dim)
      encode_head(dtype, head_dim, dim, decode_head(ROW_F32, head_dim, dim, (const char *)floats, 1, 0, buffer), rows, heads, head);
}

EXPORT(decode_rows)
void decode_rows(uint32_t dtype, uint32_t heads, uint32_t head_dim, const char *rows, float *floats, uint32_t row_bytes, uint32_t count) {
  const uint32_t dim = (head_dim + 7) & ~7u;
  float buffer[MAX_DIM];
  for (; count > 0; count--, rows += row_bytes)
    for (uint32_t head = 0; head < heads; head++, floats += head_dim) {
      const float *x = decode_head(dtype, head_dim, dim, rows, heads, head, buffer);
      for (uint32_t d = 0; d < head_dim; d++) floats[d] = x[d];
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
