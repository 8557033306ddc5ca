/* model.c: what a model says about itself. */
#include "platform.h"

#include "memory.h"
#include "model.h"

const char *sdcomp_describe(const sdcomp_model *model) { return model->plan->manifest; }

uint32_t sdcomp_thread_count(const sdcomp_model *model) { return scheduler_threads(model->pool); }

uint32_t sdcomp_program_count(const sdcomp_model *model) { return model->plan->program_count; }

static const sdcomp_plan_program *find_program(const sdcomp_model *model, uint32_t number) {
  return number < model->plan->program_count ? &model->plan->programs[number] : NULL;
}

sdcomp_status sdcomp_program(const sdcomp_model *model, uint32_t number, sdcomp_program_info *info) {
  const sdcomp_plan_program *program = find_program(model, number);
  if (program == NULL) return SDCOMP_INVALID;
  sdcomp_program_info own = {
      .input_count = program->input_count,
      .output_count = program->output_count,
      .kernel_count = program->kernel_count,
      .name = program->name,
      .arena_bytes = program->arena_bytes,
      .weights_bytes = program->weights_end - program->weights_begin,
      .trace_events = scheduler_range_limit(program->kernels, program->kernel_count),
  };
  versioned_write(info, &own, sizeof own);
  return SDCOMP_OK;
}

static sdcomp_status describe_tensor(const sdcomp_plan_tensor *tensors, uint32_t count, uint32_t index,
                                     sdcomp_tensor_info *info) {
  if (index >= count) return SDCOMP_INVALID;
  const sdcomp_plan_tensor *tensor = &tensors[index];
  sdcomp_tensor_info own = {
      .rank = tensor->rank, .name = tensor->name, .dtype = tensor->dtype, .bytes = tensor->bytes};
  memcpy(own.shape, tensor->shape, sizeof own.shape);
  versioned_write(info, &own, sizeof own);
  return SDCOMP_OK;
}

sdcomp_status sdcomp_input(const sdcomp_model *model, uint32_t number, uint32_t index,
                           sdcomp_tensor_info *info) {
  const sdcomp_plan_program *program = find_program(model, number);
  return program == NULL ? SDCOMP_INVALID
                         : describe_tensor(program->inputs, program->input_count, index, info);
}

sdcomp_status sdcomp_output(const sdcomp_model *model, uint32_t number, uint32_t index,
                            sdcomp_tensor_info *info) {
  const sdcomp_plan_program *program = find_program(model, number);
  return program == NULL ? SDCOMP_INVALID
                         : describe_tensor(program->outputs, program->output_count, index, info);
}

const char *sdcomp_kernel_name(const sdcomp_model *model, uint32_t number, uint32_t kernel) {
  const sdcomp_plan_program *program = find_program(model, number);
  return program == NULL || kernel >= program->kernel_count ? NULL : program->kernels[kernel].name;
}

const void *sdcomp_asset(const sdcomp_model *model, uint64_t offset, uint64_t bytes) {
  uint64_t total = model->weights.trailer.bytes;
  return bytes > total || offset > total - bytes ? NULL : model->weights.data + offset;
}

sdcomp_status sdcomp_release(const sdcomp_model *model, uint32_t number) {
  const sdcomp_plan_program *program = find_program(model, number);
  if (program == NULL) return SDCOMP_INVALID;
  memory_drop(model->weights.data + program->weights_begin, program->weights_end - program->weights_begin);
  return SDCOMP_OK;
}
