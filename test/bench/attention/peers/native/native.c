/*
 * The attention kernels as a native program, on the work that a thread of the benchmark has: same pages in random order, same
 * numbers. Commands on standard input: `run N` attends N times and answers with when it began and ended (ms of the monotonic
 * clock), `output` writes [sequences, chunk, kv_heads, group, head_dim] floats to the file of the last argument. The parent has
 * checked all arguments. Addresses of blocks are 32 bits, as in WebAssembly, so KV is mapped below 4 GiB.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "attention.c"

#define MAP_BASE ((char *)0x10000000)
#define FILL_TOKENS 128

static uint32_t dtype, head_dim, group, kv_heads, context, sequences, chunk, layers, period;
static uint32_t dim, page_tokens, page_bytes, value_offset, scale_offset;
static float *q, *k, *v; /* as in work.ts, of this thread's heads and sequences */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void *need(void *p) {
  if (p != NULL && p != MAP_FAILED) return p;
  fprintf(stderr, "no memory\n");
  exit(1);
}

static float *read_floats(FILE *file, size_t n) {
  float *to = need(malloc(n * 4));
  if (fread(to, 4, n, file) == n) return to;
  fprintf(stderr, "the data file ends early\n");
  exit(1);
}

static void write_row(float *to, uint32_t token, const float *query) {
  const size_t kv = (size_t)kv_heads * head_dim;
  if (query) memcpy(to, query, 4 * kv * group);
  memcpy(to + kv * group, k + token % period * kv, 4 * kv);
  memcpy(to + kv * (group + 1), v + token % period * kv, 4 * kv);
}

int main(int argc, char **argv) {
  if (argc != 17) return 2;
  uint32_t *const fields[] = {&dtype,  &head_dim, &group, &kv_heads,     &context,    &sequences,    &chunk,
                              &layers, &period,   &dim,   &page_tokens,  &page_bytes, &value_offset, &scale_offset};
  for (int i = 0; i < 14; i++) *fields[i] = (uint32_t)strtoul(argv[i + 1], NULL, 10);
  FILE *data = need(fopen(argv[15], "rb"));
  const size_t kv = (size_t)kv_heads * head_dim, rows = (size_t)sequences * chunk;
  q = read_floats(data, rows * kv * group);
  k = read_floats(data, period * kv);
  v = read_floats(data, period * kv);
  fclose(data);

  /* A block is a page's tokens here. Neighbours stand out of the same cache sets, as page-layout.ts does it. */
  const uint32_t blocks_each = (context + page_tokens - 1) / page_tokens, blocks = sequences * blocks_each;
  const size_t block_bytes = (size_t)page_bytes * layers * kv_heads + 320;
  char *memory = need(mmap(MAP_BASE, blocks * block_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  uint32_t *table = need(malloc(4 * blocks)), *windows = need(calloc(2 * layers, 4));
  uint32_t *zeros = need(calloc(layers, 4)), *places = need(calloc(layers, 4));
  for (uint32_t i = 0; i < blocks; i++) table[i] = (uint32_t)(uintptr_t)(memory + i * block_bytes);
  for (uint32_t i = blocks - 1, random = 77; i > 0; i--) {
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    const uint32_t j = random % (i + 1), swap = table[i];
    table[i] = table[j];
    table[j] = swap;
  }
  for (uint32_t i = 0; i < layers; i++) windows[layers + i] = 1, places[i] = i;
  const Config config = {.dtype = dtype,
                         .kv_heads = kv_heads,
                         .group = group,
                         .head_dim = head_dim,
                         .dim = dim,
                         .block_tokens = page_tokens,
                         .page_tokens = page_tokens,
                         .page_bytes = page_bytes,
                         .value_offset = value_offset,
                         .scale_offset = scale_offset,
                         .scale = 1.44269504089f / __builtin_sqrtf((float)head_dim),
                         .row_dtype = ROW_F32,
                         .qkv_row_bytes = 4 * kv_heads * (group + 2) * head_dim,
                         .output_row_bytes = 4 * kv_heads * group * head_dim,
                         .table_blocks = blocks_each,
                         .windows = windows,
                         .group_of_layer = zeros,
                         .place_of_layer = places};
  Config fill = config;
  fill.windows = windows + layers;

  /* The first period by append, with a window of 1; the rest is copied. */
  const size_t row_floats = kv * (group + 2), most = rows > FILL_TOKENS ? rows : FILL_TOKENS;
  float *qkv = need(calloc(most * row_floats, 4)), *out = need(calloc(most * kv * group, 4));
  Entry *entries = need(calloc(sequences, sizeof(Entry)));
  Worker *worker = need(calloc(1, scratch_bytes()));
  Task task = {.end_entry = 1, .end_head = kv_heads, .end_row = UINT32_MAX, .end_split = UINT32_MAX, .parts = 1};
  const Step step = {.qkv = (char *)qkv, .output = (char *)out, .entries = entries, .tasks = &task};
  for (uint32_t position = 0; position < period; position += FILL_TOKENS) {
    const uint32_t count = min_u32(FILL_TOKENS, period - position);
    for (uint32_t i = 0; i < count; i++) write_row(qkv + i * row_floats, position + i, NULL);
    entries[0] = (Entry){.tables = table, .position = position, .count = count, .stored = position + count};
    attend(&fill, worker, &step, 0, 0, 1);
  }
  const uint32_t period_blocks = (period + page_tokens - 1) / page_tokens;
  const size_t layer_bytes = (size_t)kv_heads * page_bytes;
  for (uint32_t i = 0; i < blocks; i++) {
    char *from = (char *)(uintptr_t)table[i % blocks_each % period_blocks], *to = (char *)(uintptr_t)table[i];
    for (uint32_t layer = 0; layer < layers; layer++)
      if (to + layer * layer_bytes != from) memcpy(to + layer * layer_bytes, from, layer_bytes);
  }

  task.end_entry = sequences;
  for (uint32_t s = 0; s < sequences; s++)
    entries[s] = (Entry){.tables = table + s * blocks_each,
                         .position = context - chunk,
                         .count = chunk,
                         .stored = context,
                         .first_row = s * chunk};
  for (uint32_t row = 0; row < rows; row++)
    write_row(qkv + row * row_floats, context - chunk + row % chunk, q + row * kv * group);

  printf("ready\n");
  fflush(stdout);
  char line[64];
  for (uint32_t layer = 0; fgets(line, sizeof line, stdin);) {
    if (strncmp(line, "run ", 4) == 0) {
      const double begun = now();
      for (long n = strtol(line + 4, NULL, 10); n > 0; n--, layer = (layer + 1) % layers)
        attend(&config, worker, &step, layer, 0, 1);
      printf("%.6f %.6f\n", begun, now());
    } else {
      FILE *file = need(fopen(argv[16], "wb"));
      fwrite(out, 4, rows * kv * group, file);
      fclose(file);
      printf("written\n");
    }
    fflush(stdout);
  }
  return 0;
}
