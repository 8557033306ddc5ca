/* The public interface over the hand-made artifact of plan_fake.c: opening, looking, running, refusing. */
#include "platform.h"

#include "check.h"
#include "payload.h"
#include "plan_fake.h"
#include "sdcomp.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  CELLS = FAKE_ROWS * FAKE_COLUMNS,
  CHUNKS = 3,
  CONTEXTS = 4,
  ROUNDS = 20
};

#define WEIGHTS "fake.weights"
#define BAD "bad.weights"

static char text[512];

/* ---- The payload file, written here a second time, apart from sdcomp/runtime/payload.py -----------------
 */

typedef struct image {
  float floats[FAKE_FLOATS];
  uint32_t zero; /* up to 8 bytes */
  uint64_t table[CHUNKS];
  payload_trailer trailer;
} image;

static void fill_image(image *whole) {
  memset(whole, 0, sizeof *whole);
  for (int i = 0; i < FAKE_FLOATS; i++) whole->floats[i] = (float)(i % 1000);
  for (uint64_t c = 0; c < CHUNKS; c++) {
    uint64_t left = FAKE_WEIGHTS_BYTES - c * PAYLOAD_CHUNK_BYTES;
    uint64_t bytes = left < PAYLOAD_CHUNK_BYTES ? left : PAYLOAD_CHUNK_BYTES;
    const char *chunk = (const char *)whole->floats + c * PAYLOAD_CHUNK_BYTES;
    whole->table[c] = payload_hash_finish(payload_hash_words(0, chunk, bytes, 0), bytes);
  }
  uint64_t sum = payload_hash_words(0, whole->table, sizeof whole->table, 0);
  whole->trailer = (payload_trailer){.version = PAYLOAD_VERSION,
                                     .chunk_bytes = PAYLOAD_CHUNK_BYTES,
                                     .bytes = FAKE_WEIGHTS_BYTES,
                                     .table_offset = offsetof(image, table),
                                     .hash = payload_hash_finish(sum, sizeof whole->table)};
  memcpy(whole->trailer.magic, PAYLOAD_MAGIC, sizeof whole->trailer.magic);
}

static void write_bytes(const char *path, const void *data, size_t bytes) {
  FILE *file = fopen(path, "wb");
  CHECK(file != NULL && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

static sdcomp_status open_file(const char *path, uint32_t threads, sdcomp_model **model) {
  sdcomp_open_options options = SDCOMP_OPEN_OPTIONS_INIT;
  options.path = path;
  options.threads = threads;
  text[0] = '\0';
  return sdcomp_open(&options, model, text, sizeof text);
}

static sdcomp_model *open_model(uint32_t threads) {
  sdcomp_model *model;
  sdcomp_status status = open_file(WEIGHTS, threads, &model);
  if (status != SDCOMP_OK) fprintf(stderr, "%s\n", text);
  CHECK(status == SDCOMP_OK);
  return model;
}

static sdcomp_context *make_context(sdcomp_model *model) {
  sdcomp_context *context;
  CHECK(sdcomp_context_create(model, &context, text, sizeof text) == SDCOMP_OK);
  return context;
}

/* ---- Programs --------------------------------------------------------------------------------------------
 */

static sdcomp_status run_prepare(sdcomp_context *context, float scale, char *error, size_t error_bytes) {
  _Alignas(64) float input[16] = {scale};
  const void *inputs[] = {input};
  return sdcomp_run(context, FAKE_PREPARE, inputs, NULL, NULL, error, error_bytes);
}

static void check_apply(sdcomp_context *context, float scale, float offset) {
  _Alignas(64) float x[CELLS], y[CELLS];
  _Alignas(64) int32_t steps[FAKE_ROWS] = {0, 1, 2, 3};
  for (int i = 0; i < CELLS; i++) x[i] = (float)i * 0.25f + offset;
  const void *inputs[] = {x, steps};
  void *outputs[] = {y};
  CHECK(sdcomp_run(context, FAKE_APPLY, inputs, outputs, NULL, NULL, 0) == SDCOMP_OK);
  for (int i = 0; i < CELLS; i++) {
    CHECK(y[i] == x[i] * x[i] + (float)(i % 1000) * scale * (float)(i / FAKE_COLUMNS));
  }
}

static void test_programs_run_and_keep_state(void) {
  for (uint32_t threads = 1; threads <= 8; threads++) {
    sdcomp_model *model = open_model(threads);
    CHECK(sdcomp_thread_count(model) == threads);
    sdcomp_context *context = make_context(model);
    CHECK(run_prepare(context, 0.5f, NULL, 0) == SDCOMP_OK);
    check_apply(context, 0.5f, 1.0f);
    CHECK(sdcomp_release(model, FAKE_PREPARE) == SDCOMP_OK);
    CHECK(sdcomp_context_trim(context) == SDCOMP_OK);
    check_apply(context, 0.5f, 2.0f); /* the state outlives the trim */
    CHECK(run_prepare(context, 2.0f, NULL, 0) == SDCOMP_OK);
    check_apply(context, 2.0f, 3.0f);
    CHECK(sdcomp_close(model) == SDCOMP_BUSY);
    CHECK(sdcomp_context_destroy(context) == SDCOMP_OK);
    CHECK(sdcomp_close(model) == SDCOMP_OK);
  }
}

static void test_required_state_is_asked_for(void) {
  sdcomp_model *model = open_model(2);
  sdcomp_context *context = make_context(model), *other = make_context(model);
  _Alignas(64) float x[CELLS] = {0}, y[CELLS];
  _Alignas(64) int32_t steps[FAKE_ROWS] = {0};
  const void *inputs[] = {x, steps};
  void *outputs[] = {y};
  CHECK(run_prepare(other, 1.0f, NULL, 0) == SDCOMP_OK);
  CHECK(sdcomp_run(context, FAKE_APPLY, inputs, outputs, NULL, text, sizeof text) == SDCOMP_MISSING);
  CHECK(strstr(text, "apply") != NULL && strstr(text, "prepare") != NULL);
  CHECK(sdcomp_context_destroy(context) == SDCOMP_OK && sdcomp_context_destroy(other) == SDCOMP_OK);
  CHECK(sdcomp_close(model) == SDCOMP_OK);
}

static void test_bad_arguments_are_refused(void) {
  sdcomp_model *model = open_model(1);
  sdcomp_context *context = make_context(model);
  _Alignas(64) float input[32] = {1};
  const void *none[] = {NULL}, *crooked[] = {input + 1};
  CHECK(sdcomp_run(context, 99, none, NULL, NULL, text, sizeof text) == SDCOMP_INVALID);
  CHECK(sdcomp_run(context, FAKE_PREPARE, NULL, NULL, NULL, text, sizeof text) == SDCOMP_INVALID);
  CHECK(sdcomp_run(context, FAKE_PREPARE, none, NULL, NULL, text, sizeof text) == SDCOMP_INVALID);
  CHECK(strstr(text, "\"scale\" is NULL") != NULL);
  CHECK(sdcomp_run(context, FAKE_PREPARE, crooked, NULL, NULL, text, sizeof text) == SDCOMP_INVALID);
  CHECK(strstr(text, "multiple of 64") != NULL);
  CHECK(sdcomp_run(context, FAKE_PREPARE, crooked, NULL, NULL, text, 8) == SDCOMP_INVALID);
  CHECK(strlen(text) == 7);
  CHECK(sdcomp_context_destroy(context) == SDCOMP_OK && sdcomp_close(model) == SDCOMP_OK);
  CHECK(sdcomp_context_destroy(NULL) == SDCOMP_OK && sdcomp_close(NULL) == SDCOMP_OK);
}

static void *use_context(void *argument) {
  sdcomp_context *context = make_context(argument);
  for (int round = 0; round < ROUNDS; round++) {
    CHECK(run_prepare(context, (float)round, NULL, 0) == SDCOMP_OK);
    check_apply(context, (float)round, (float)round);
  }
  CHECK(sdcomp_context_destroy(context) == SDCOMP_OK);
  return NULL;
}

static void test_contexts_of_several_threads(void) {
  sdcomp_model *model = open_model(3);
  pthread_t threads[CONTEXTS];
  for (int i = 0; i < CONTEXTS; i++) CHECK(pthread_create(&threads[i], NULL, use_context, model) == 0);
  for (int i = 0; i < CONTEXTS; i++) pthread_join(threads[i], NULL);
  CHECK(sdcomp_close(model) == SDCOMP_OK);
}

/* ---- Cancelling ------------------------------------------------------------------------------------------
 */

static void sleep_ms(int count) { nanosleep(&(struct timespec){.tv_nsec = count * 1000000}, NULL); }

static void *run_slow(void *context) {
  sdcomp_status status = SDCOMP_BUSY; /* the test asks for it at the same time */
  while (status == SDCOMP_BUSY) status = sdcomp_run(context, FAKE_SLOW, NULL, NULL, NULL, NULL, 0);
  CHECK(status == SDCOMP_CANCELLED);
  return NULL;
}

static void *wait_for_turn(void *context) {
  CHECK(run_prepare(context, 1.0f, NULL, 0) == SDCOMP_CANCELLED);
  return NULL;
}

static void test_running_and_waiting_runs_are_cancelled(void) {
  sdcomp_model *model = open_model(2);
  sdcomp_context *slow = make_context(model), *waiting = make_context(model);
  pthread_t slow_thread, waiting_thread;
  CHECK(pthread_create(&slow_thread, NULL, run_slow, slow) == 0);
  while (run_prepare(slow, 1.0f, text, sizeof text) != SDCOMP_BUSY) sleep_ms(1);
  CHECK(sdcomp_context_trim(slow) == SDCOMP_BUSY && sdcomp_context_destroy(slow) == SDCOMP_BUSY);
  CHECK(pthread_create(&waiting_thread, NULL, wait_for_turn, waiting) == 0);
  sleep_ms(50);
  sdcomp_cancel(waiting);
  pthread_join(waiting_thread, NULL);
  sdcomp_cancel(slow);
  pthread_join(slow_thread, NULL);
  CHECK(run_prepare(slow, 1.0f, NULL, 0) == SDCOMP_OK); /* as good as new */
  check_apply(slow, 1.0f, 1.0f);
  CHECK(sdcomp_context_destroy(slow) == SDCOMP_OK && sdcomp_context_destroy(waiting) == SDCOMP_OK);
  CHECK(sdcomp_close(model) == SDCOMP_OK);
}

/* ---- Looking ---------------------------------------------------------------------------------------------
 */

static void test_programs_are_described(void) {
  sdcomp_model *model = open_model(1);
  sdcomp_program_info program = {.size = sizeof program};
  sdcomp_tensor_info tensor = {.size = sizeof tensor};
  CHECK(sdcomp_abi_version() == SDCOMP_ABI_VERSION && sdcomp_program_count(model) == 3);
  CHECK(strcmp(sdcomp_describe(model), "{\"name\": \"fake\"}") == 0);
  CHECK(sdcomp_program(model, FAKE_APPLY, &program) == SDCOMP_OK);
  CHECK(strcmp(program.name, "apply") == 0 && program.input_count == 2 && program.output_count == 1);
  CHECK(strcmp(sdcomp_kernel_name(model, FAKE_APPLY, 1), "combine") == 0);
  CHECK(sdcomp_input(model, FAKE_APPLY, 0, &tensor) == SDCOMP_OK);
  CHECK(tensor.rank == 2 && tensor.shape[0] == FAKE_ROWS && tensor.shape[1] == FAKE_COLUMNS);
  CHECK(tensor.bytes == 4 * CELLS && strcmp(tensor.dtype, "f32") == 0);
  CHECK(sdcomp_program(model, 3, &program) == SDCOMP_INVALID);
  CHECK(sdcomp_input(model, FAKE_APPLY, 2, &tensor) == SDCOMP_INVALID);
  CHECK(sdcomp_output(model, 3, 0, &tensor) == SDCOMP_INVALID);
  CHECK(sdcomp_kernel_name(model, FAKE_APPLY, 2) == NULL && sdcomp_kernel_name(model, 3, 0) == NULL);
  CHECK(sdcomp_release(model, 3) == SDCOMP_INVALID);
  const float *asset = sdcomp_asset(model, 4000, 8);
  CHECK(asset != NULL && asset[0] == 0 && asset[1] == 1);
  CHECK(sdcomp_asset(model, FAKE_WEIGHTS_BYTES - 4, 4) != NULL);
  CHECK(sdcomp_asset(model, FAKE_WEIGHTS_BYTES - 4, 5) == NULL && sdcomp_asset(model, UINT64_MAX, 2) == NULL);
  CHECK(sdcomp_close(model) == SDCOMP_OK);
}

/* A caller of an older header has a shorter structure, one of a newer header a longer. */
static void test_structures_of_other_sizes(void) {
  struct {
    sdcomp_open_options known;
    uint64_t unknown;
  } newer = {.known = SDCOMP_OPEN_OPTIONS_INIT};
  newer.known.size = sizeof newer;
  newer.known.path = WEIGHTS;
  sdcomp_model *model;
  CHECK(sdcomp_open(&newer.known, &model, text, sizeof text) == SDCOMP_OK);
  sdcomp_program_info program = {.size = offsetof(sdcomp_program_info, name), .name = "untouched"};
  CHECK(sdcomp_program(model, FAKE_APPLY, &program) == SDCOMP_OK);
  CHECK(program.kernel_count == 2 && strcmp(program.name, "untouched") == 0);
  CHECK(program.size == offsetof(sdcomp_program_info, name));
  CHECK(sdcomp_close(model) == SDCOMP_OK);
  newer.unknown = 1;
  CHECK(sdcomp_open(&newer.known, &model, text, sizeof text) == SDCOMP_UNSUPPORTED && model == NULL);
  newer.known.abi_version = 2;
  CHECK(sdcomp_open(&newer.known, &model, text, sizeof text) == SDCOMP_UNSUPPORTED);
  CHECK(strstr(text, "version 2") != NULL);
  CHECK(sdcomp_open(NULL, &model, text, sizeof text) == SDCOMP_INVALID);
}

/* ---- Damage ----------------------------------------------------------------------------------------------
 */

static void check_refused(const void *data, size_t bytes, sdcomp_status expected, const char *words) {
  sdcomp_model *model;
  write_bytes(BAD, data, bytes);
  sdcomp_status status = open_file(BAD, 2, &model);
  if (status != expected || strstr(text, words) == NULL) fprintf(stderr, "status %d: %s\n", status, text);
  CHECK(status == expected && strstr(text, words) != NULL && strstr(text, BAD) != NULL && model == NULL);
  unlink(BAD);
}

static void test_damaged_payloads_are_refused(void) {
  static image whole, bad;
  fill_image(&whole);
  for (uint32_t byte = 0; byte < FAKE_WEIGHTS_BYTES; byte += 300007) {
    bad = whole;
    ((unsigned char *)bad.floats)[byte] ^= 0x80;
    char range[64];
    snprintf(range, sizeof range, "bytes %u to", byte / PAYLOAD_CHUNK_BYTES * PAYLOAD_CHUNK_BYTES);
    check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, range);
  }
  bad = whole;
  bad.floats[FAKE_FLOATS - 1] = -1;
  check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "bytes 2097152 to 2400004 are damaged");
  bad = whole;
  bad.table[1] ^= 1;
  check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "table of hashes");
}

/* Both signs flip bit 63 of their words, which an odd multiplier alone would not tell apart. */
static void test_two_flipped_top_bits_do_not_cancel(void) {
  static image bad;
  fill_image(&bad);
  ((unsigned char *)bad.floats)[7] ^= 0x80;
  ((unsigned char *)bad.floats)[815] ^= 0x80;
  check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "bytes 0 to 1048576");
}

static void test_impossible_trailers_are_refused(void) {
  static image whole, bad;
  fill_image(&whole);
  check_refused(&whole, sizeof whole - 1, SDCOMP_MISSING, "carries no weights payload");
  check_refused(&whole, 10, SDCOMP_MISSING, "carries no weights payload");
  check_refused(&whole, 0, SDCOMP_MISSING, "carries no weights payload");
  check_refused((char *)&whole + 8, sizeof whole - 8, SDCOMP_DAMAGED, "contradicts the size");
  const uint64_t absurd[] = {1, 4096, UINT64_MAX, UINT64_MAX - 65535, 1ull << 63};
  for (size_t i = 0; i < sizeof absurd / sizeof absurd[0]; i++) {
    bad = whole, bad.trailer.offset = absurd[i];
    check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "contradicts the size");
    bad = whole, bad.trailer.bytes = absurd[i];
    check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "contradicts the size");
    bad = whole, bad.trailer.table_offset = absurd[i];
    check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "contradicts the size");
  }
  bad = whole, bad.trailer.version = 2;
  check_refused(&bad, sizeof bad, SDCOMP_UNSUPPORTED, "version 2");
  bad = whole, bad.floats[0] = 1, bad.trailer.hash++;
  check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "table of hashes");
}

static void test_weights_of_another_build_are_refused(void) {
  static image bad;
  fill_image(&bad);
  bad.table[0]++;
  uint64_t sum = payload_hash_words(0, bad.table, sizeof bad.table, 0);
  bad.trailer.hash = payload_hash_finish(sum, sizeof bad.table);
  check_refused(&bad, sizeof bad, SDCOMP_DAMAGED, "another build");
  sdcomp_model *model;
  CHECK(open_file("there-is-no-such-file", 1, &model) == SDCOMP_MISSING);
  CHECK(open_file(".", 1, &model) == SDCOMP_SYSTEM);
}

static void test_unverified_open_skips_the_chunks_only(void) {
  static image bad;
  fill_image(&bad);
  bad.floats[0] = 1;
  write_bytes(BAD, &bad, sizeof bad);
  sdcomp_open_options options = SDCOMP_OPEN_OPTIONS_INIT;
  options.path = BAD;
  options.flags = SDCOMP_OPEN_UNVERIFIED;
  sdcomp_model *model;
  CHECK(sdcomp_open(&options, &model, text, sizeof text) == SDCOMP_OK);
  CHECK(sdcomp_close(model) == SDCOMP_OK);
  unlink(BAD);
}

static void test_models_come_and_go(void) {
  for (int round = 0; round < 30; round++) {
    sdcomp_model *first = open_model(2), *second = open_model(3);
    sdcomp_context *context = make_context(second);
    CHECK(sdcomp_close(first) == SDCOMP_OK);
    CHECK(run_prepare(context, 1.0f, NULL, 0) == SDCOMP_OK);
    CHECK(sdcomp_context_destroy(context) == SDCOMP_OK && sdcomp_close(second) == SDCOMP_OK);
  }
}

int main(void) {
  static image whole;
  fill_image(&whole);
  CHECK(whole.trailer.hash == FAKE_WEIGHTS_HASH);
  write_bytes(WEIGHTS, &whole, sizeof whole);
  RUN(test_programs_run_and_keep_state);
  RUN(test_required_state_is_asked_for);
  RUN(test_bad_arguments_are_refused);
  RUN(test_contexts_of_several_threads);
  RUN(test_running_and_waiting_runs_are_cancelled);
  RUN(test_programs_are_described);
  RUN(test_structures_of_other_sizes);
  RUN(test_damaged_payloads_are_refused);
  RUN(test_two_flipped_top_bits_do_not_cancel);
  RUN(test_impossible_trailers_are_refused);
  RUN(test_weights_of_another_build_are_refused);
  RUN(test_unverified_open_skips_the_chunks_only);
  RUN(test_models_come_and_go);
  return 0;
}
