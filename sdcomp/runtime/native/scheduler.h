/* scheduler.h: computes a graph of kernels on a pool of threads by work stealing.
 *
 * Each worker has a deque of ranges (kernel, begin, end). It works at the back of its own, halves a range
 * larger than the kernel's grain, pushing the upper half and going on with the lower, and steals from the
 * front of a random other's when its own is empty: so thieves get the largest pieces, and owners walk through
 * neighbouring tiles. The worker that finishes the last tile of a kernel decrements its successors'
 * dependency counts and pushes those that reach zero. There is no barrier.
 *
 * Kernels must not depend on how their tiles are cut or who computes them; then neither does the result.
 */
#ifndef SDCOMP_SCHEDULER_H
#define SDCOMP_SCHEDULER_H

#include "message.h"
#include "plan.h"

#include <stdatomic.h>
#include <stdbool.h>

typedef struct scheduler scheduler;

/* One run. The first part is the caller's to fill; counters need no initial value. */
typedef struct scheduler_job {
  const sdcomp_plan_kernel *kernels;
  uint32_t kernel_count;
  const uint32_t *successors;
  void *const *operands; /* of all kernels; a kernel's start at its first_operand */
  _Atomic uint32_t
      *dependencies; /* room for kernel_count counters: predecessors that a kernel still waits for */
  _Atomic uint32_t *remaining;  /* room for kernel_count counters: tiles that are not finished */
  const atomic_bool *cancelled; /* read before every range; once set, the rest is passed over */
  sdcomp_progress progress;     /* or NULL; called on the thread that called scheduler_run */
  void *user;
  sdcomp_trace_event *trace; /* or NULL */
  uint64_t trace_capacity;
  /* filled by the run */
  _Atomic uint64_t trace_count;
  _Atomic uint32_t kernels_done;
  atomic_bool incomplete; /* a range was passed over */
} scheduler_job;

/* Threads include the one that will call scheduler_run. Each worker gets scratch_bytes of 64-byte aligned
 * memory for its kernels. */
sdcomp_status scheduler_create(uint32_t threads, uint64_t scratch_bytes, uint64_t deque_capacity,
                               scheduler **pool, message error);

/* No run may be in progress. NULL is accepted. */
void scheduler_destroy(scheduler *pool);

uint32_t scheduler_threads(const scheduler *pool);

/* Ranges that one worker's deque can hold at most while these kernels run. */
uint64_t scheduler_deque_capacity(const sdcomp_plan_kernel *kernels, uint32_t kernel_count);

/* Ranges that a run of these kernels is cut into at most. */
uint64_t scheduler_range_limit(const sdcomp_plan_kernel *kernels, uint32_t kernel_count);

/* Waits for its turn, then computes along until every kernel is done: SDCOMP_OK, or SDCOMP_CANCELLED where a
 * part was passed over. */
sdcomp_status scheduler_run(scheduler *pool, scheduler_job *job);

#endif
