/* context.c: the memory of a run, and runs. */
#include "platform.h"

#include "memory.h"
#include "model.h"

#include <stdlib.h>

struct sdcomp_context {
  sdcomp_model *model;
  unsigned char *arena;
  uint64_t arena_bytes;
  unsigned char *state;
  void **operands; /* of the run in progress: a plan's operands as addresses */
  _Atomic uint32_t *dependencies;
  _Atomic uint32_t *remaining;
  bool *succeeded; /* per program: its state is there */
  atomic_bool running;
  atomic_bool cancelled;
};

/* The largest of what the programs need. */
typedef struct context_needs {
  uint64_t arena_bytes, operands, kernels;
} context_needs;

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static context_needs measure_plan(const sdcomp_plan *plan) {
  context_needs needs = {0};
  for (uint32_t i = 0; i < plan->program_count; i++) {
    const sdcomp_plan_program *program = &plan->programs[i];
    needs.arena_bytes = larger(needs.arena_bytes, program->arena_bytes);
    needs.kernels = larger(needs.kernels, program->kernel_count);
    for (uint32_t k = 0; k < program->kernel_count; k++) {
      needs.operands = larger(needs.operands, (uint64_t)program->kernels[k].first_operand +
                                                  program->kernels[k].operand_count);
    }
  }
  return needs;
}

static void free_parts(sdcomp_context *context) {
  memory_unmap(context->arena, context->arena_bytes);
  memory_unmap(context->state, context->model->plan->state_bytes);
  free(context->operands);
  free(context->dependencies);
  free(context->remaining);
  free(context->succeeded);
  free(context);
}

static bool allocate_parts(sdcomp_context *context, context_needs needs) {
  const sdcomp_plan *plan = context->model->plan;
  context->arena_bytes = needs.arena_bytes;
  context->arena = memory_map(needs.arena_bytes);
  context->state = memory_map(plan->state_bytes);
  context->operands = calloc(needs.operands + 1, sizeof *context->operands);
  context->dependencies = calloc(needs.kernels + 1, sizeof *context->dependencies);
  context->remaining = calloc(needs.kernels + 1, sizeof *context->remaining);
  context->succeeded = calloc((size_t)plan->program_count + 1, sizeof *context->succeeded);
  return context->arena != NULL && context->state != NULL && context->operands != NULL &&
         context->dependencies != NULL && context->remaining != NULL && context->succeeded != NULL;
}

sdcomp_status sdcomp_context_create(sdcomp_model *model, sdcomp_context **result, char *text,
                                    size_t text_bytes) {
  message error = {text, text_bytes};
  *result = NULL;
  sdcomp_context *context = calloc(1, sizeof *context);
  if (context == NULL) return refuse(error, SDCOMP_SYSTEM, "out of memory for a context");
  context->model = model;
  context_needs needs = measure_plan(model->plan);
  if (!allocate_parts(context, needs)) {
    free_parts(context);
    return refuse(error, SDCOMP_SYSTEM,
                  "out of memory for a context: an arena of %llu bytes and a state of %llu bytes",
                  (unsigned long long)needs.arena_bytes, (unsigned long long)model->plan->state_bytes);
  }
  atomic_fetch_add(&model->contexts, 1);
  *result = context;
  return SDCOMP_OK;
}

sdcomp_status sdcomp_context_destroy(sdcomp_context *context) {
  if (context == NULL) return SDCOMP_OK;
  if (atomic_exchange(&context->running, true)) return SDCOMP_BUSY;
  sdcomp_model *model = context->model;
  free_parts(context);
  atomic_fetch_sub(&model->contexts, 1);
  return SDCOMP_OK;
}

sdcomp_status sdcomp_context_trim(sdcomp_context *context) {
  if (atomic_exchange(&context->running, true)) return SDCOMP_BUSY;
  memory_drop(context->arena, context->arena_bytes);
  atomic_store(&context->running, false);
  return SDCOMP_OK;
}

void sdcomp_cancel(sdcomp_context *context) { atomic_store(&context->cancelled, true); }

/* ---- Runs ---------------------------------------------------------------------------------------------- */

static sdcomp_status check_pointers(const sdcomp_plan_program *program, const char *kind,
                                    const sdcomp_plan_tensor *tensors, const void *const *pointers,
                                    uint32_t count, message error) {
  for (uint32_t i = 0; i < count; i++) {
    if (pointers == NULL || pointers[i] == NULL) {
      return refuse(error, SDCOMP_INVALID, "program \"%s\": %s \"%s\" is NULL", program->name, kind,
                    tensors[i].name);
    }
    if ((uintptr_t)pointers[i] % SDCOMP_ALIGNMENT != 0) {
      return refuse(error, SDCOMP_INVALID,
                    "program \"%s\": %s \"%s\" is at %p: expected an address that is a multiple of %u",
                    program->name, kind, tensors[i].name, pointers[i], SDCOMP_ALIGNMENT);
    }
  }
  return SDCOMP_OK;
}

static sdcomp_status check_requirements(const sdcomp_context *context, const sdcomp_plan_program *program,
                                        message error) {
  for (uint32_t i = 0; i < program->require_count; i++) {
    uint32_t number = program->requires[i];
    if (context->succeeded[number]) continue;
    return refuse(error, SDCOMP_MISSING,
                  "program \"%s\" reads what \"%s\" leaves behind: run that one in this context first",
                  program->name, context->model->plan->programs[number].name);
  }
  return SDCOMP_OK;
}

/* Weights and inputs lose their const here: an operand table mixes what kernels read and write. */
static void *operand_address(const sdcomp_context *context, const sdcomp_plan_operand *operand,
                             const void *const *inputs, void *const *outputs) {
  switch (operand->space) {
    case SDCOMP_SPACE_ARENA: return context->arena + operand->offset;
    case SDCOMP_SPACE_WEIGHTS: return (unsigned char *)context->model->weights.data + operand->offset;
    case SDCOMP_SPACE_STATE: return context->state + operand->offset;
    case SDCOMP_SPACE_INPUT: return (unsigned char *)inputs[operand->index] + operand->offset;
    default: return (unsigned char *)outputs[operand->index] + operand->offset;
  }
}

static void resolve_operands(sdcomp_context *context, const sdcomp_plan_program *program,
                             const void *const *inputs, void *const *outputs) {
  for (uint32_t k = 0; k < program->kernel_count; k++) {
    const sdcomp_plan_kernel *kernel = &program->kernels[k];
    for (uint32_t i = kernel->first_operand; i < kernel->first_operand + kernel->operand_count; i++) {
      context->operands[i] = operand_address(context, &program->operands[i], inputs, outputs);
    }
  }
}

/* A job of each kernel alone: whatever order the scheduler may choose, the compiler's own is one of them. */
static sdcomp_status run_observed(sdcomp_context *context, const sdcomp_plan_program *program,
                                  const sdcomp_run_options *options) {
  for (uint32_t k = 0; k < program->kernel_count; k++) {
    sdcomp_plan_kernel alone = program->kernels[k];
    alone.dependencies = alone.successor_count = 0;
    scheduler_job job = {
        .kernels = &alone,
        .kernel_count = 1,
        .operands = context->operands,
        .dependencies = context->dependencies,
        .remaining = context->remaining,
        .cancelled = &context->cancelled,
    };
    sdcomp_status status = scheduler_run(context->model->pool, &job);
    if (status != SDCOMP_OK) return status;
    options->observe(options->user, k, context->operands + alone.first_operand);
  }
  return atomic_load(&context->cancelled) ? SDCOMP_CANCELLED : SDCOMP_OK;
}

static sdcomp_status run_scheduled(sdcomp_context *context, const sdcomp_plan_program *program,
                                   const sdcomp_run_options *options) {
  scheduler_job job = {
      .kernels = program->kernels,
      .kernel_count = program->kernel_count,
      .successors = program->successors,
      .operands = context->operands,
      .dependencies = context->dependencies,
      .remaining = context->remaining,
      .cancelled = &context->cancelled,
      .progress = options->progress,
      .user = options->user,
      .trace = options->trace,
      .trace_capacity = options->trace_capacity,
  };
  sdcomp_status status = scheduler_run(context->model->pool, &job);
  if (options->trace_count != NULL) *options->trace_count = job.trace_count;
  return status;
}

static sdcomp_status run_kernels(sdcomp_context *context, const sdcomp_plan_program *program,
                                 const sdcomp_run_options *options, message error) {
  sdcomp_status status = options->observe == NULL ? run_scheduled(context, program, options)
                                                  : run_observed(context, program, options);
  if (status == SDCOMP_OK) return status;
  return refuse(error, status, "program \"%s\" was cancelled", program->name);
}

/* A program that fails half-way has overwritten a part of its state, so it counts as not run. */
static sdcomp_status run_program(sdcomp_context *context, uint32_t number, const void *const *inputs,
                                 void *const *outputs, const sdcomp_run_options *options, message error) {
  const sdcomp_plan_program *program = &context->model->plan->programs[number];
  const void *const *written = (const void *const *)outputs;
  sdcomp_status status =
      check_pointers(program, "input", program->inputs, inputs, program->input_count, error);
  if (status == SDCOMP_OK)
    status = check_pointers(program, "output", program->outputs, written, program->output_count, error);
  if (status == SDCOMP_OK) status = check_requirements(context, program, error);
  if (status != SDCOMP_OK) return status;
  resolve_operands(context, program, inputs, outputs);
  context->succeeded[number] = false;
  status = run_kernels(context, program, options, error);
  context->succeeded[number] = status == SDCOMP_OK;
  return status;
}

sdcomp_status sdcomp_run(sdcomp_context *context, uint32_t number, const void *const *inputs,
                         void *const *outputs, const sdcomp_run_options *options, char *text,
                         size_t text_bytes) {
  message error = {text, text_bytes};
  sdcomp_run_options own = SDCOMP_RUN_OPTIONS_INIT;
  uint32_t program_count = context->model->plan->program_count;
  if (number >= program_count) {
    return refuse(error, SDCOMP_INVALID, "there is no program %u: the artifact has %u", number,
                  program_count);
  }
  if (options != NULL && (!versioned_read(&own, sizeof own, options) || own.flags != 0)) {
    return refuse(error, SDCOMP_UNSUPPORTED,
                  "sdcomp_run: options ask for something this artifact does not know: build it again");
  }
  if (own.observe != NULL && (own.progress != NULL || own.trace != NULL)) {
    return refuse(error, SDCOMP_INVALID,
                  "sdcomp_run: a run that is observed has neither progress nor a trace: leave them out");
  }
  if (atomic_exchange(&context->running, true)) {
    return refuse(error, SDCOMP_BUSY,
                  "this context has a run in progress: use one context per concurrent run");
  }
  atomic_store(&context->cancelled, false);
  sdcomp_status status = run_program(context, number, inputs, outputs, &own, error);
  atomic_store(&context->running, false);
  return status;
}
