/* run_unet.c: opens an artifact and runs its UNet from C, with nothing but sdcomp.h.
 *
 *   cc examples/c/run_unet.c -Isdcomp/runtime/native -ldl -o run_unet
 *   ./run_unet ./model.so                         the first UNet of the artifact
 *   ./run_unet ./model.so PROGRAM...              these programs, in this order
 *
 * A UNet is three programs, because its inputs change at different rates: unet.prompt@... takes the text once
 * per prompt, unet.step@... the timestep once per step, and unet@... the latents; the first two leave what
 * they computed in the context. Inputs are ones (zeros where they are integers); the first outputs and the
 * time of every program are printed.
 */
#define _POSIX_C_SOURCE 200809L

#include "sdcomp.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  MOST_TENSORS = 8,
  SHOWN = 8,
  ERROR_BYTES = 512
};

/* The artifact's functions. A program that links the artifact instead of opening it calls them by name. */
static struct {
  __typeof__(sdcomp_abi_version) *abi_version;
  __typeof__(sdcomp_open) *open;
  __typeof__(sdcomp_close) *close;
  __typeof__(sdcomp_program_count) *program_count;
  __typeof__(sdcomp_program) *program;
  __typeof__(sdcomp_input) *input;
  __typeof__(sdcomp_output) *output;
  __typeof__(sdcomp_context_create) *context_create;
  __typeof__(sdcomp_context_destroy) *context_destroy;
  __typeof__(sdcomp_run) *run;
} sd;

static char error[ERROR_BYTES];

static void fail(const char *text) {
  fprintf(stderr, "run_unet: %s\n", text);
  exit(1);
}

static void check(sdcomp_status status) {
  if (status != SDCOMP_OK) fail(error);
}

/* POSIX defines the conversion of dlsym's result to a function; C does not, hence the copy. */
static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  if (symbol == NULL) fail(dlerror());
  memcpy(function, &symbol, sizeof symbol);
}

static void load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(dlerror());
  find(library, "sdcomp_abi_version", &sd.abi_version);
  if (sd.abi_version() != SDCOMP_ABI_VERSION) fail("the artifact has another version of the interface");
  find(library, "sdcomp_open", &sd.open);
  find(library, "sdcomp_close", &sd.close);
  find(library, "sdcomp_program_count", &sd.program_count);
  find(library, "sdcomp_program", &sd.program);
  find(library, "sdcomp_input", &sd.input);
  find(library, "sdcomp_output", &sd.output);
  find(library, "sdcomp_context_create", &sd.context_create);
  find(library, "sdcomp_context_destroy", &sd.context_destroy);
  find(library, "sdcomp_run", &sd.run);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Tensors start at a multiple of SDCOMP_ALIGNMENT; aligned_alloc wants whole multiples too. */
static void *make_tensor(const sdcomp_tensor_info *tensor) {
  size_t bytes = (tensor->bytes + SDCOMP_ALIGNMENT) / SDCOMP_ALIGNMENT * SDCOMP_ALIGNMENT;
  void *data = aligned_alloc(SDCOMP_ALIGNMENT, bytes);
  if (data == NULL) fail("out of memory");
  memset(data, 0, bytes);
  if (strcmp(tensor->dtype, "f32") != 0) return data;
  for (uint64_t i = 0; i < tensor->bytes / sizeof(float); i++) ((float *)data)[i] = 1.0f;
  return data;
}

static void print_tensor(const sdcomp_tensor_info *tensor, const float *values) {
  printf("  %s = ", tensor->name);
  for (uint64_t i = 0; i < SHOWN && i < tensor->bytes / sizeof(float); i++) printf("%g ", (double)values[i]);
  printf("...\n");
}

static void run_program(const sdcomp_model *model, sdcomp_context *context, uint32_t number) {
  sdcomp_program_info program = {.size = sizeof program};
  sdcomp_tensor_info tensor = {.size = sizeof tensor};
  void *inputs[MOST_TENSORS] = {NULL}, *outputs[MOST_TENSORS] = {NULL};
  check(sd.program(model, number, &program));
  if (program.input_count > MOST_TENSORS || program.output_count > MOST_TENSORS) fail("too many tensors");
  for (uint32_t i = 0; i < program.input_count; i++) {
    check(sd.input(model, number, i, &tensor));
    inputs[i] = make_tensor(&tensor);
  }
  for (uint32_t i = 0; i < program.output_count; i++) {
    check(sd.output(model, number, i, &tensor));
    outputs[i] = make_tensor(&tensor);
  }
  double begin = seconds();
  check(sd.run(context, number, (const void *const *)inputs, outputs, NULL, error, sizeof error));
  printf("%s: %.3f s\n", program.name, seconds() - begin);
  for (uint32_t i = 0; i < program.output_count; i++) {
    check(sd.output(model, number, i, &tensor));
    if (strcmp(tensor.dtype, "f32") == 0) print_tensor(&tensor, outputs[i]);
  }
  for (uint32_t i = 0; i < MOST_TENSORS; i++) free(inputs[i]), free(outputs[i]);
}

static int has_prefix(const char *text, const char *prefix) {
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The first program whose name begins like this. Returns the number of programs run: 0 where there is none.
 */
static int run_first(const sdcomp_model *model, sdcomp_context *context, const char *prefix) {
  sdcomp_program_info program = {.size = sizeof program};
  for (uint32_t i = 0; sd.program(model, i, &program) == SDCOMP_OK; i++) {
    if (!has_prefix(program.name, prefix)) continue;
    run_program(model, context, i);
    return 1;
  }
  return 0;
}

int main(int argument_count, char **arguments) {
  static char *unet[] = {"unet.prompt@", "unet.step@", "unet@"};
  if (argument_count < 2) fail("usage: run_unet ./model.so [PROGRAM...]");
  load(arguments[1]);
  char **wanted = argument_count > 2 ? arguments + 2 : unet;
  int wanted_count = argument_count > 2 ? argument_count - 2 : 3;

  sdcomp_open_options options = SDCOMP_OPEN_OPTIONS_INIT;
  sdcomp_model *model;
  sdcomp_context *context;
  check(sd.open(&options, &model, error, sizeof error));
  check(sd.context_create(model, &context, error, sizeof error));
  int found = 0;
  for (int i = 0; i < wanted_count; i++) found += run_first(model, context, wanted[i]);
  check(sd.context_destroy(context));
  check(sd.close(model));
  if (found == 0) fail("the artifact has no such program");
  return 0;
}
