/* plan_fake.c: a small artifact by hand, for tests of everything that does not need a compiler.
 *
 *   prepare  scale f32[1]                      state = weights[0:256] * scale
 *   apply    x f32[4,64], steps i32[4]   -> y  y[r,c] = x[r,c]^2 + state[64 r + c] * steps[r]; requires
 * prepare slow                                       8 s of sleep in tiles of 1 ms
 *
 * Macros make variants of it: FAKE_FEATURE is one more CPU feature to ask for, FAKE_ABI_VERSION the plan's
 * version.
 */
#include "platform.h"

#include "plan.h"
#include "plan_fake.h"
#include "sdcomp.h"

#include <stddef.h>
#include <time.h>

#ifndef FAKE_ABI_VERSION
#define FAKE_ABI_VERSION SDCOMP_ABI_VERSION
#endif

enum {
  CELLS = FAKE_ROWS * FAKE_COLUMNS,
  CELL_BYTES = CELLS * 4
};

static void scale_weights(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)scratch;
  const float *weights = operands[0], *scale = operands[1];
  float *state = operands[2];
  for (int64_t i = begin; i < end; i++) state[i] = weights[i] * scale[0];
}

static void square(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)scratch;
  const float *x = operands[0];
  float *squares = operands[1];
  for (int64_t i = begin; i < end; i++) squares[i] = x[i] * x[i];
}

static void combine(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)scratch;
  const float *squares = operands[0], *state = operands[1];
  const int32_t *steps = operands[2];
  float *y = operands[3];
  for (int64_t i = begin * FAKE_COLUMNS; i < end * FAKE_COLUMNS; i++) {
    y[i] = squares[i] + state[i] * (float)steps[i / FAKE_COLUMNS];
  }
}

static void nap(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)operands, (void)scratch;
  for (int64_t i = begin; i < end; i++) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static const sdcomp_plan_tensor prepare_inputs[] = {{"scale", "f32", 1, {1}, 4}};
static const sdcomp_plan_tensor apply_inputs[] = {
    {"x", "f32", 2, {FAKE_ROWS, FAKE_COLUMNS}, CELL_BYTES},
    {"steps", "i32", 1, {FAKE_ROWS}, 4 * FAKE_ROWS},
};
static const sdcomp_plan_tensor apply_outputs[] = {{"y", "f32", 2, {FAKE_ROWS, FAKE_COLUMNS}, CELL_BYTES}};

static const sdcomp_plan_operand prepare_operands[] = {
    {SDCOMP_SPACE_WEIGHTS, 0, 0}, {SDCOMP_SPACE_INPUT, 0, 0}, {SDCOMP_SPACE_STATE, 0, 0}};
static const sdcomp_plan_operand apply_operands[] = {
    {SDCOMP_SPACE_INPUT, 0, 0}, {SDCOMP_SPACE_ARENA, 0, 64}, {SDCOMP_SPACE_ARENA, 0, 64},
    {SDCOMP_SPACE_STATE, 0, 0}, {SDCOMP_SPACE_INPUT, 1, 0},  {SDCOMP_SPACE_OUTPUT, 0, 0}};

static const sdcomp_plan_kernel prepare_kernels[] = {
    {.name = "scale_weights", .run = scale_weights, .tiles = CELLS, .grain = 16, .operand_count = 3}};
static const sdcomp_plan_kernel apply_kernels[] = {
    {.name = "square", .run = square, .tiles = CELLS, .grain = 16, .operand_count = 2, .successor_count = 1},
    {.name = "combine",
     .run = combine,
     .tiles = FAKE_ROWS,
     .grain = 1,
     .first_operand = 2,
     .operand_count = 4,
     .dependencies = 1}};
static const sdcomp_plan_kernel slow_kernels[] = {
    {.name = "nap", .run = nap, .tiles = FAKE_SLOW_MS, .grain = 1}};

static const uint32_t apply_successors[] = {1};
static const uint32_t apply_requires[] = {FAKE_PREPARE};

static const sdcomp_plan_program programs[] = {
    {.name = "prepare",
     .kernels = prepare_kernels,
     .kernel_count = 1,
     .operands = prepare_operands,
     .inputs = prepare_inputs,
     .input_count = 1,
     .weights_end = CELL_BYTES},
    {.name = "apply",
     .kernels = apply_kernels,
     .kernel_count = 2,
     .operands = apply_operands,
     .successors = apply_successors,
     .inputs = apply_inputs,
     .input_count = 2,
     .outputs = apply_outputs,
     .output_count = 1,
     .requires = apply_requires,
     .require_count = 1,
     .arena_bytes = 64 + CELL_BYTES,
     .scratch_bytes = 4096},
    {.name = "slow", .kernels = slow_kernels, .kernel_count = 1},
};

static const char *const features[] = {
#if defined(__x86_64__)
    "sse2",
#endif
#ifdef FAKE_FEATURE
    FAKE_FEATURE,
#endif
    NULL};

const sdcomp_plan sdcomp_model_plan = {
    .abi_version = FAKE_ABI_VERSION,
    .manifest = "{\"name\": \"fake\"}",
    .cpu_features = features,
    .programs = programs,
    .program_count = sizeof programs / sizeof programs[0],
    .state_bytes = CELL_BYTES,
    .weights_bytes = FAKE_WEIGHTS_BYTES,
    .weights_hash = FAKE_WEIGHTS_HASH,
};
