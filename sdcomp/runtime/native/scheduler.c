#include "platform.h"

#include "deque.h"
#include "eventcount.h"
#include "memory.h"
#include "places.h"
#include "scheduler.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>

enum {
  SPIN_ROUNDS = 128, /* looks at every deque before a worker sleeps: as long as a wake-up takes, about */
  SPIN_PAUSES = 8,
  SLICE_NS = 2000000, /* half the time between two ticks of Linux, at which a thread makes way for another */
  TURN_POLL_NS = 5000000 /* a run that waits for its turn looks this often whether it was cancelled */
};

typedef struct worker {
  deque queue;
  scheduler *pool;
  uint64_t random;
  unsigned char *scratch;
  uint32_t index; /* 0 stands for whichever thread calls scheduler_run */
  pthread_t thread;
  uint64_t slice_begin_ns;
} worker;

struct scheduler {
  worker *workers;
  uint32_t worker_count;
  uint32_t started; /* threads that run: workers 1 to started */
  unsigned char *scratch;
  uint64_t scratch_bytes; /* of all workers */
  eventcount wakeup;
  scheduler_job *job; /* set before its first range is pushed, read only by who holds a range of it */
  atomic_bool running;
  atomic_bool stopping;
  pthread_mutex_t turn_mutex;
  pthread_cond_t turn_over;
  bool turn_taken;
  places places; /* worker 0 keeps to the first of them while it computes, the others always */
};

static void pause_briefly(void) {
#if defined(__x86_64__)
  for (int i = 0; i < SPIN_PAUSES; i++) __builtin_ia32_pause();
#elif defined(__aarch64__)
  for (int i = 0; i < SPIN_PAUSES; i++) __asm__ volatile("isb"); /* yield returns at once on most cores */
#endif
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Computing ranges ---------------------------------------------------------------------------------- */

static void push_range(worker *self, range work) {
  deque_push(&self->queue, work);
  eventcount_notify(&self->pool->wakeup, false);
}

static range split_range(worker *self, const sdcomp_plan_kernel *kernel, range work) {
  while (work.end - work.begin > kernel->grain) {
    uint32_t middle = work.begin + (work.end - work.begin + 1) / 2;
    push_range(self, (range){work.kernel, middle, work.end});
    work.end = middle;
  }
  return work;
}

static void record_range(const worker *self, scheduler_job *job, range work, uint64_t begin_ns) {
  uint64_t position = atomic_fetch_add_explicit(&job->trace_count, 1, memory_order_relaxed);
  if (position >= job->trace_capacity) return;
  job->trace[position] =
      (sdcomp_trace_event){work.kernel, self->index, work.begin, work.end, begin_ns, now_ns()};
}

static void compute_range(worker *self, scheduler_job *job, range work) {
  const sdcomp_plan_kernel *kernel = &job->kernels[work.kernel];
  uint64_t begin_ns = job->trace == NULL ? 0 : now_ns();
  kernel->run(job->operands + kernel->first_operand, self->scratch, work.begin, work.end);
  if (job->trace != NULL) record_range(self, job, work, begin_ns);
}

/* In reverse, so that the worker goes on with the successor that the compiler put first. */
static void release_successors(worker *self, scheduler_job *job, const sdcomp_plan_kernel *kernel) {
  for (uint32_t i = kernel->successor_count; i-- > 0;) {
    uint32_t next = job->successors[kernel->first_successor + i];
    uint32_t waiting = atomic_fetch_sub_explicit(&job->dependencies[next], 1, memory_order_acq_rel);
    if (waiting == 1) push_range(self, (range){next, 0, job->kernels[next].tiles});
  }
}

/* Counts tiles as finished. Once the last kernel is counted the job belongs to its caller again, and to
 * nobody here. */
static void finish_range(worker *self, scheduler_job *job, range work) {
  uint32_t tiles = work.end - work.begin;
  if (atomic_fetch_sub_explicit(&job->remaining[work.kernel], tiles, memory_order_acq_rel) != tiles) return;
  release_successors(self, job, &job->kernels[work.kernel]);
  uint32_t total = job->kernel_count;
  uint32_t done = atomic_fetch_add_explicit(&job->kernels_done, 1, memory_order_seq_cst) + 1;
  if (done == total) eventcount_notify(&self->pool->wakeup, true);
}

/* A worker whose slice of time ends in the middle of a range holds up all that comes after the kernel, as long
 * as the slice of another thread lasts. So it offers its CPU before that, between ranges, when it holds none. */
static void offer_cpu(worker *self) {
  if (now_ns() - self->slice_begin_ns < SLICE_NS) return;
  sched_yield();
  self->slice_begin_ns = now_ns();
}

/* A cancelled job is not torn down: its ranges are passed over, uncut, until the graph has run dry, which
 * takes microseconds and leaves every deque and counter as a finished job does. */
static void work_on(worker *self, range work) {
  scheduler_job *job = self->pool->job;
  if (atomic_load_explicit(job->cancelled, memory_order_relaxed)) {
    atomic_store_explicit(&job->incomplete, true, memory_order_relaxed);
  } else {
    work = split_range(self, &job->kernels[work.kernel], work);
    compute_range(self, job, work);
  }
  finish_range(self, job, work);
  offer_cpu(self);
}

/* ---- Finding ranges ------------------------------------------------------------------------------------ */

static uint32_t random_below(worker *self, uint32_t bound) {
  self->random ^= self->random << 13; /* xorshift64 (Marsaglia 2003) */
  self->random ^= self->random >> 7;
  self->random ^= self->random << 17;
  return (uint32_t)((self->random >> 32) * bound >> 32);
}

static bool find_range(worker *self, range *work) {
  if (deque_take(&self->queue, work)) return true;
  scheduler *pool = self->pool;
  uint32_t first = random_below(self, pool->worker_count);
  for (uint32_t i = 0; i < pool->worker_count; i++) {
    worker *victim = &pool->workers[(first + i) % pool->worker_count];
    if (victim != self && deque_steal(&victim->queue, work)) return true;
  }
  return false;
}

static bool spin_for_range(worker *self, range *work) {
  for (int round = 0; round < SPIN_ROUNDS; round++) {
    if (!atomic_load_explicit(&self->pool->running, memory_order_relaxed)) return false;
    if (find_range(self, work)) return true;
    pause_briefly();
  }
  return false;
}

/* Worker 0 is wanted until its job is done, the others until the pool is destroyed. */
static bool is_over(const worker *self) {
  const scheduler *pool = self->pool;
  if (self->index != 0) return atomic_load_explicit(&pool->stopping, memory_order_seq_cst);
  return atomic_load_explicit(&pool->job->kernels_done, memory_order_seq_cst) == pool->job->kernel_count;
}

/* One step of a worker's life: computes a range, or sleeps until there may be one. */
static void work_or_sleep(worker *self) {
  range work;
  if (find_range(self, &work) || spin_for_range(self, &work)) {
    work_on(self, work);
    return;
  }
  eventcount *wakeup = &self->pool->wakeup;
  uint32_t ticket = eventcount_prepare(wakeup);
  bool found = find_range(self, &work);
  if (!found && !is_over(self)) {
    eventcount_wait(wakeup, ticket);
    self->slice_begin_ns = now_ns();
    return;
  }
  eventcount_cancel(wakeup);
  if (found) work_on(self, work);
}

static void *worker_main(void *argument) {
  worker *self = argument;
  while (!is_over(self)) work_or_sleep(self);
  return NULL;
}

/* ---- Runs ---------------------------------------------------------------------------------------------- */

/* False where the job was cancelled before its turn came. Polls, so that cancelling stays one store that a
 * signal handler may do. */
static bool take_turn(scheduler *pool, const atomic_bool *cancelled) {
  pthread_mutex_lock(&pool->turn_mutex);
  while (pool->turn_taken && !atomic_load_explicit(cancelled, memory_order_relaxed)) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_nsec += TURN_POLL_NS;
    deadline.tv_sec += deadline.tv_nsec / 1000000000;
    deadline.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&pool->turn_over, &pool->turn_mutex, &deadline);
  }
  bool taken = !pool->turn_taken;
  pool->turn_taken = true;
  pthread_mutex_unlock(&pool->turn_mutex);
  return taken;
}

static void give_turn(scheduler *pool) {
  pthread_mutex_lock(&pool->turn_mutex);
  pool->turn_taken = false;
  pthread_cond_signal(&pool->turn_over);
  pthread_mutex_unlock(&pool->turn_mutex);
}

/* The caller's thread gets a place for as long as it computes. One that has been given CPUs of its own by the
 * program keeps them; as they may be those of other workers, these are then free to move out of its way. */
static void bind_caller(scheduler *pool) {
  if (!pool->places.fixed) return;
  if (places_are_own(&pool->places)) {
    places_bind(&pool->places, pthread_self(), 0);
    return;
  }
  for (uint32_t i = 1; i <= pool->started; i++) places_release(&pool->places, pool->workers[i].thread);
  pool->places.fixed = false;
}

static void release_caller(const scheduler *pool) {
  if (pool->places.fixed) places_release(&pool->places, pthread_self());
}

static void start_job(scheduler *pool, scheduler_job *job) {
  atomic_store_explicit(&job->trace_count, 0, memory_order_relaxed);
  atomic_store_explicit(&job->kernels_done, 0, memory_order_relaxed);
  atomic_store_explicit(&job->incomplete, false, memory_order_relaxed);
  for (uint32_t k = 0; k < job->kernel_count; k++) {
    atomic_store_explicit(&job->dependencies[k], job->kernels[k].dependencies, memory_order_relaxed);
    atomic_store_explicit(&job->remaining[k], job->kernels[k].tiles, memory_order_relaxed);
  }
  pool->job = job;
  pool->workers[0].slice_begin_ns = now_ns();
  atomic_store_explicit(&pool->running, true, memory_order_relaxed);
  for (uint32_t k = job->kernel_count; k-- > 0;) {
    if (job->kernels[k].dependencies == 0)
      push_range(&pool->workers[0], (range){k, 0, job->kernels[k].tiles});
  }
}

/* Threads that the callback starts inherit its CPUs: all of them, not just the worker's. */
static uint32_t report_progress(scheduler *pool, scheduler_job *job, uint32_t reported) {
  uint32_t done = atomic_load_explicit(&job->kernels_done, memory_order_acquire);
  if (job->progress == NULL || done == reported) return done;
  if (atomic_load_explicit(&job->incomplete, memory_order_relaxed)) return done;
  release_caller(pool);
  job->progress(job->user, done, job->kernel_count);
  bind_caller(pool);
  return done;
}

sdcomp_status scheduler_run(scheduler *pool, scheduler_job *job) {
  if (!take_turn(pool, job->cancelled)) return SDCOMP_CANCELLED;
  worker *self = &pool->workers[0];
  bind_caller(pool);
  start_job(pool, job);
  uint32_t reported = 0;
  while (!is_over(self)) {
    work_or_sleep(self);
    reported = report_progress(pool, job, reported);
  }
  report_progress(pool, job, reported);
  release_caller(pool);
  atomic_store_explicit(&pool->running, false, memory_order_relaxed);
  give_turn(pool);
  return atomic_load_explicit(&job->incomplete, memory_order_relaxed) ? SDCOMP_CANCELLED : SDCOMP_OK;
}

/* A range that is halved leaves at most one piece of each size behind; a worker steals only when its deque is
 * empty, so pieces of one kernel never come from two ranges. Each kernel thus holds one slot while it is
 * whole and at most log2(tiles) + 1 once it is cut. */
uint64_t scheduler_deque_capacity(const sdcomp_plan_kernel *kernels, uint32_t kernel_count) {
  uint64_t capacity = 0;
  for (uint32_t k = 0; k < kernel_count; k++) {
    for (uint32_t tiles = kernels[k].tiles; tiles > 0; tiles /= 2) capacity++;
    capacity++;
  }
  return capacity;
}

/* Halving stops at the grain, so that a piece has at least half of the grain's tiles, or is the whole kernel.
 */
uint64_t scheduler_range_limit(const sdcomp_plan_kernel *kernels, uint32_t kernel_count) {
  uint64_t ranges = 0;
  for (uint32_t k = 0; k < kernel_count; k++) {
    uint32_t smallest = kernels[k].grain / 2 + kernels[k].grain % 2;
    ranges += kernels[k].tiles / smallest + 1;
  }
  return ranges;
}

/* ---- Life of the pool ---------------------------------------------------------------------------------- */

static sdcomp_status start_worker(scheduler *pool, uint32_t index, uint64_t scratch_bytes,
                                  uint64_t deque_capacity, message error) {
  worker *self = &pool->workers[index];
  self->pool = pool;
  self->index = index;
  self->random = 0x9E3779B97F4A7C15u * (index + 1);
  self->scratch = pool->scratch + index * scratch_bytes;
  if (!deque_create(&self->queue, deque_capacity))
    return refuse(error, SDCOMP_SYSTEM, "out of memory for the queue of a thread");
  return SDCOMP_OK;
}

/* Signals are for the program's own threads: a handler that runs on a worker would surprise it. */
static sdcomp_status start_threads(scheduler *pool, message error) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failure = 0;
  for (uint32_t i = 1; i < pool->worker_count; i++) {
    failure = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
    if (failure != 0) break;
    pool->started++;
    if (pool->places.fixed) places_bind(&pool->places, pool->workers[i].thread, i);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failure == 0) return SDCOMP_OK;
  return refuse(error, SDCOMP_SYSTEM, "cannot start thread %u of %u: %s; ask for fewer threads",
                pool->started + 2, pool->worker_count, strerror(failure));
}

static sdcomp_status start_pool(scheduler *pool, uint64_t scratch_bytes, uint64_t deque_capacity,
                                message error) {
  uint64_t page = memory_page_bytes();
  uint64_t each = (scratch_bytes + page - 1) / page * page;
  pool->scratch_bytes = each * pool->worker_count;
  pool->scratch = memory_map(pool->scratch_bytes);
  pool->workers = aligned_alloc(alignof(worker), sizeof(worker) * pool->worker_count);
  if (pool->workers != NULL) memset(pool->workers, 0, sizeof(worker) * pool->worker_count);
  if (pool->scratch == NULL || pool->workers == NULL) {
    return refuse(error, SDCOMP_SYSTEM, "out of memory for %u threads with %llu bytes of scratch each",
                  pool->worker_count, (unsigned long long)each);
  }
  for (uint32_t i = 0; i < pool->worker_count; i++) {
    sdcomp_status status = start_worker(pool, i, each, deque_capacity, error);
    if (status != SDCOMP_OK) return status;
  }
  return start_threads(pool, error);
}

sdcomp_status scheduler_create(uint32_t threads, uint64_t scratch_bytes, uint64_t deque_capacity,
                               scheduler **result, message error) {
  *result = NULL;
  scheduler *pool = calloc(1, sizeof(scheduler));
  if (pool == NULL) return refuse(error, SDCOMP_SYSTEM, "out of memory for the threads");
  pool->worker_count = threads;
  places_find(&pool->places, threads);
  eventcount_create(&pool->wakeup);
  pthread_mutex_init(&pool->turn_mutex, NULL);
  pthread_cond_init(&pool->turn_over, NULL);
  sdcomp_status status = start_pool(pool, scratch_bytes, deque_capacity, error);
  if (status == SDCOMP_OK) *result = pool;
  else scheduler_destroy(pool);
  return status;
}

void scheduler_destroy(scheduler *pool) {
  if (pool == NULL) return;
  atomic_store_explicit(&pool->stopping, true, memory_order_seq_cst);
  eventcount_notify(&pool->wakeup, true);
  for (uint32_t i = 1; i <= pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
  for (uint32_t i = 0; pool->workers != NULL && i < pool->worker_count; i++)
    deque_destroy(&pool->workers[i].queue);
  free(pool->workers);
  memory_unmap(pool->scratch, pool->scratch_bytes);
  pthread_cond_destroy(&pool->turn_over);
  pthread_mutex_destroy(&pool->turn_mutex);
  eventcount_destroy(&pool->wakeup);
  free(pool);
}

uint32_t scheduler_threads(const scheduler *pool) { return pool->worker_count; }
