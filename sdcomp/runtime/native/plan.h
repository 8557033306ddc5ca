/* plan.h: the tables that the compiler writes into an artifact and the runtime reads. Not part of the public ABI (sdcomp.h).
 *
 * A model has programs; a program is a directed acyclic graph of kernels; a kernel is one function over a range of independent
 * tiles. Everything is static data: nothing is parsed or allocated per kernel when a program runs.
 */
#ifndef SDCOMP_PLAN_H
#define SDCOMP_PLAN_H

#include <stdint.h>

/* Computes tiles begin <= tile < end. Operands are the kernel's pointers in the order of its operand table; scratch belongs to the
 * worker for the time of the call, holds the program's scratch_bytes and is 64-byte aligned. Kernels keep no state. */
typedef void (*sdcomp_kernel_function)(void *const *operands, void *scratch, int64_t begin, int64_t end);

enum sdcomp_space {
  SDCOMP_SPACE_ARENA,   /* intermediate values of one run; offset into the context's arena */
  SDCOMP_SPACE_WEIGHTS, /* read-only payload; offset into it */
  SDCOMP_SPACE_STATE,   /* values that one program leaves for another; offset into the context's state */
  SDCOMP_SPACE_INPUT,   /* the caller's input number `index` */
  SDCOMP_SPACE_OUTPUT   /* the caller's output number `index` */
};

typedef struct sdcomp_plan_operand {
  uint32_t space;
  uint32_t index;
  uint64_t offset;
} sdcomp_plan_operand;

typedef struct sdcomp_plan_kernel {
  const char *name;
  sdcomp_kernel_function run;
  uint32_t tiles;          /* number of independent tiles, at least 1 */
  uint32_t grain;          /* a range of at most this many tiles is not split further, at least 1 */
  uint32_t first_operand, operand_count;     /* into sdcomp_plan_program.operands */
  uint32_t first_successor, successor_count; /* into sdcomp_plan_program.successors: kernels that wait for this one */
  uint32_t dependencies;   /* number of kernels that this one waits for */
} sdcomp_plan_kernel;

typedef struct sdcomp_plan_tensor {
  const char *name;
  const char *dtype; /* "f32" or "i32" */
  uint32_t rank;
  uint64_t shape[8];
  uint64_t bytes; /* row-major, no gaps */
} sdcomp_plan_tensor;

typedef struct sdcomp_plan_program {
  const char *name;
  const sdcomp_plan_kernel *kernels;
  uint32_t kernel_count;
  const sdcomp_plan_operand *operands;
  const uint32_t *successors;
  const sdcomp_plan_tensor *inputs;
  uint32_t input_count;
  const sdcomp_plan_tensor *outputs;
  uint32_t output_count;
  const uint32_t *requires; /* programs (by number) that must have run in this context before: they fill the state this one reads */
  uint32_t require_count;
  uint64_t arena_bytes;
  uint64_t scratch_bytes;               /* per worker */
  uint64_t weights_begin, weights_end;  /* the part of the payload that it reads */
} sdcomp_plan_program;

typedef struct sdcomp_plan {
  uint32_t abi_version;
  const char *manifest;             /* JSON, UTF-8: what describe() returns */
  const char *const *cpu_features;  /* needed to run the kernels, as LLVM names them ("avx2"), ended by NULL */
  const sdcomp_plan_program *programs;
  uint32_t program_count;
  uint64_t state_bytes;
  uint64_t weights_bytes;
  uint64_t weights_hash; /* of the payload: ties the weights to this code */
} sdcomp_plan;

/* Defined by the compiler's output, one per artifact. Hidden, so that an artifact never binds to the plan of another one. */
extern const sdcomp_plan sdcomp_model_plan __attribute__((visibility("hidden")));

#endif
