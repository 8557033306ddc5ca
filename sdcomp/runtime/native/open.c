/* open.c: sdcomp_open and sdcomp_close. */
#include "platform.h"

#include "cpu.h"
#include "model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum {
  THREAD_LIMIT = 1024
};

static sdcomp_status check_options(sdcomp_open_options *own, const sdcomp_open_options *given,
                                   message error) {
  if (given == NULL)
    return refuse(error, SDCOMP_INVALID, "sdcomp_open: options is NULL; start from SDCOMP_OPEN_OPTIONS_INIT");
  bool known = versioned_read(own, sizeof *own, given);
  if (own->abi_version != SDCOMP_ABI_VERSION) {
    return refuse(
        error, SDCOMP_UNSUPPORTED,
        "the program was compiled for version %u of sdcomp.h, the artifact has version %u: build it again",
        own->abi_version, SDCOMP_ABI_VERSION);
  }
  if (!known || (own->flags & ~SDCOMP_OPEN_UNVERIFIED) != 0) {
    return refuse(error, SDCOMP_UNSUPPORTED,
                  "sdcomp_open: options ask for something this artifact does not know: build it again");
  }
  if (own->threads > THREAD_LIMIT) {
    return refuse(error, SDCOMP_INVALID, "%u threads: expected 1 to %d, or 0 for one per CPU", own->threads,
                  THREAD_LIMIT);
  }
  return SDCOMP_OK;
}

static sdcomp_status check_plan(const sdcomp_plan *plan, message error) {
  if (plan->abi_version != SDCOMP_ABI_VERSION) {
    return refuse(error, SDCOMP_UNSUPPORTED,
                  "the artifact's plan has version %u and its runtime version %u: build it again",
                  plan->abi_version, SDCOMP_ABI_VERSION);
  }
  char missing[512];
  if (cpu_missing_features(plan->cpu_features, missing, sizeof missing) == 0) return SDCOMP_OK;
  return refuse(
      error, SDCOMP_UNSUPPORTED,
      "the artifact uses CPU features that this machine lacks: %s; build it for this machine's target",
      missing);
}

static sdcomp_status open_beside(const char *library, payload *weights, message error) {
  static const char suffix[] = ".weights";
  size_t bytes = strlen(library) + sizeof suffix;
  char *beside = malloc(bytes);
  if (beside == NULL)
    return refuse(error, SDCOMP_SYSTEM, "%s: out of memory for the name of its weights", library);
  snprintf(beside, bytes, "%s%s", library, suffix);
  sdcomp_status status = payload_open(beside, weights, error);
  if (status == SDCOMP_MISSING) {
    status = refuse(error, SDCOMP_MISSING,
                    "%s: carries no weights payload at its end, and neither does %s: the file is truncated, "
                    "or its weights were left behind",
                    library, beside);
  }
  free(beside);
  return status;
}

static sdcomp_status open_weights(const char *path, payload *weights, message error) {
  if (path != NULL) return payload_open(path, weights, error);
  Dl_info library;
  if (dladdr(&sdcomp_model_plan, &library) == 0 || library.dli_fname == NULL) {
    return refuse(error, SDCOMP_MISSING,
                  "the artifact cannot tell the name of its own file: pass it as sdcomp_open_options.path");
  }
  sdcomp_status status = payload_open(library.dli_fname, weights, error);
  return status == SDCOMP_MISSING ? open_beside(library.dli_fname, weights, error) : status;
}

static sdcomp_status check_identity(const payload *weights, const sdcomp_plan *plan, message error) {
  if (weights->trailer.bytes == plan->weights_bytes && weights->trailer.hash == plan->weights_hash)
    return SDCOMP_OK;
  return refuse(error, SDCOMP_DAMAGED,
                "%s: the weights are of another build (%llu bytes with hash %016llx) than the code (%llu "
                "bytes with hash %016llx); copy "
                "or build both again",
                weights->path, (unsigned long long)weights->trailer.bytes,
                (unsigned long long)weights->trailer.hash, (unsigned long long)plan->weights_bytes,
                (unsigned long long)plan->weights_hash);
}

static sdcomp_status start_threads(sdcomp_model *model, uint32_t threads, message error) {
  uint64_t scratch = PAYLOAD_SCRATCH_BYTES,
           capacity = 64; /* what payload_verify needs: a kernel of up to 2^32 tiles */
  for (uint32_t i = 0; i < model->plan->program_count; i++) {
    const sdcomp_plan_program *program = &model->plan->programs[i];
    uint64_t needed = scheduler_deque_capacity(program->kernels, program->kernel_count);
    if (needed > capacity) capacity = needed;
    if (program->scratch_bytes > scratch) scratch = program->scratch_bytes;
  }
  if (threads == 0) threads = cpu_count() < THREAD_LIMIT ? cpu_count() : THREAD_LIMIT;
  return scheduler_create(threads, scratch, capacity, &model->pool, error);
}

static sdcomp_status open_parts(sdcomp_model *model, const sdcomp_open_options *options, message error) {
  sdcomp_status status = check_plan(model->plan, error);
  if (status == SDCOMP_OK) status = open_weights(options->path, &model->weights, error);
  if (status == SDCOMP_OK) status = check_identity(&model->weights, model->plan, error);
  if (status == SDCOMP_OK) status = start_threads(model, options->threads, error);
  bool unverified = options->flags & SDCOMP_OPEN_UNVERIFIED;
  if (status == SDCOMP_OK && !unverified) status = payload_verify(&model->weights, model->pool, error);
  if (status == SDCOMP_OK) status = payload_map(&model->weights, error);
  return status;
}

static void free_parts(sdcomp_model *model) {
  scheduler_destroy(model->pool);
  payload_close(&model->weights);
  free(model);
}

uint32_t sdcomp_abi_version(void) { return SDCOMP_ABI_VERSION; }

sdcomp_status sdcomp_open(const sdcomp_open_options *options, sdcomp_model **result, char *text,
                          size_t text_bytes) {
  message error = {text, text_bytes};
  sdcomp_open_options own = {0};
  *result = NULL;
  sdcomp_status status = check_options(&own, options, error);
  if (status != SDCOMP_OK) return status;
  sdcomp_model *model = calloc(1, sizeof *model);
  if (model == NULL) return refuse(error, SDCOMP_SYSTEM, "out of memory for the model");
  model->plan = &sdcomp_model_plan;
  model->weights.file = -1;
  status = open_parts(model, &own, error);
  if (status == SDCOMP_OK) *result = model;
  else free_parts(model);
  return status;
}

sdcomp_status sdcomp_close(sdcomp_model *model) {
  if (model == NULL) return SDCOMP_OK;
  if (atomic_load(&model->contexts) != 0) return SDCOMP_BUSY;
  free_parts(model);
  return SDCOMP_OK;
}
