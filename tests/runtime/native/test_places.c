/* Workers keep to a CPU each where the pool has one for each, the caller is left as it was found, and a worker
 * offers its CPU between ranges and not in the middle of one. */
#include "platform.h"

#include "graphs.h"
#include "places.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#ifdef SDCOMP_BINDS_THREADS

enum {
  THREADS = 2,
  TILES = 64,
  TILE_NS = 500000
};

static const atomic_bool never;
static atomic_uint yields;

/* In place of the system's. */
int sched_yield(void) {
  atomic_fetch_add(&yields, 1);
  return 0;
}

static cpu_set_t cpus_of_this_thread(void) {
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  return cpus;
}

static void use_cpus(const cpu_set_t *cpus) { CHECK(sched_setaffinity(0, sizeof *cpus, cpus) == 0); }

/* The first of those that this thread may use, or fewer where there are not as many. */
static cpu_set_t first_cpus(int count) {
  cpu_set_t all = cpus_of_this_thread(), result;
  CPU_ZERO(&result);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&result) < count; cpu++) {
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &result);
  }
  return result;
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

typedef struct sighting {
  pthread_t thread;
  cpu_set_t cpus;
} sighting;

static void see_tiles(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)scratch;
  sighting *seen = operands[0];
  for (int64_t tile = begin; tile < end; tile++) {
    for (uint64_t start = now_ns(); now_ns() - start < TILE_NS;) continue;
    seen[tile] = (sighting){pthread_self(), cpus_of_this_thread()};
  }
}

typedef struct callback {
  cpu_set_t cpus;
  uint32_t calls;
} callback;

static void see_callback(void *user, uint32_t done, uint32_t total) {
  (void)done, (void)total;
  callback *seen = user;
  seen->cpus = cpus_of_this_thread();
  seen->calls++;
}

static scheduler *start(uint32_t threads) {
  char text[256];
  scheduler *pool;
  CHECK(scheduler_create(threads, 64, 64, &pool, (message){text, sizeof text}) == SDCOMP_OK);
  return pool;
}

static void run_tiles(scheduler *pool, uint32_t tiles, sighting *seen, callback *reported) {
  sdcomp_plan_kernel kernel = {
      .name = "see", .run = see_tiles, .tiles = tiles, .grain = 1, .operand_count = 1};
  void *operands[] = {seen};
  _Atomic uint32_t dependencies, remaining;
  scheduler_job job = {.kernels = &kernel,
                       .kernel_count = 1,
                       .operands = operands,
                       .dependencies = &dependencies,
                       .remaining = &remaining,
                       .cancelled = &never};
  if (reported != NULL) {
    job.progress = see_callback;
    job.user = reported;
  }
  CHECK(scheduler_run(pool, &job) == SDCOMP_OK);
}

static void test_every_worker_has_a_cpu_of_its_own(void) {
  cpu_set_t all = cpus_of_this_thread();
  sighting seen[TILES];
  callback reported = {.calls = 0};
  scheduler *pool = start(THREADS);
  run_tiles(pool, TILES, seen, &reported);
  for (int i = 0; i < TILES; i++) {
    CHECK(CPU_COUNT(&seen[i].cpus) == 1);
    bool is_same_thread = pthread_equal(seen[i].thread, seen[0].thread);
    CHECK(CPU_EQUAL(&seen[i].cpus, &seen[0].cpus) == is_same_thread);
  }
  cpu_set_t after = cpus_of_this_thread();
  CHECK(CPU_EQUAL(&after, &all));
  CHECK(reported.calls > 0 && CPU_EQUAL(&reported.cpus, &all));
  scheduler_destroy(pool);
}

static void test_fewer_and_more_threads_than_cpus_stay_free(void) {
  cpu_set_t all = cpus_of_this_thread();
  for (uint32_t threads = THREADS - 1; threads <= THREADS + 1; threads += 2) {
    sighting seen[TILES];
    scheduler *pool = start(threads);
    run_tiles(pool, TILES, seen, NULL);
    for (int i = 0; i < TILES; i++) CHECK(CPU_EQUAL(&seen[i].cpus, &all));
    scheduler_destroy(pool);
  }
}

static void test_caller_with_a_cpu_of_its_own_keeps_it(void) {
  cpu_set_t all = cpus_of_this_thread(), one = first_cpus(1);
  sighting seen[TILES];
  scheduler *pool = start(THREADS);
  use_cpus(&one);
  run_tiles(pool, TILES, seen, NULL);
  cpu_set_t after = cpus_of_this_thread();
  CHECK(CPU_EQUAL(&after, &one));
  for (int i = 0; i < TILES; i++) {
    bool is_caller = pthread_equal(seen[i].thread, pthread_self());
    CHECK(CPU_EQUAL(&seen[i].cpus, is_caller ? &one : &all));
  }
  use_cpus(&all);
  scheduler_destroy(pool);
}

static void test_cpu_is_offered_between_some_ranges(void) {
  sighting seen[TILES];
  scheduler *pool = start(1);
  atomic_store(&yields, 0);
  run_tiles(pool, TILES, seen, NULL);
  /* 64 ranges of half a millisecond: after every fourth or fifth, more often only if others delay them */
  CHECK(atomic_load(&yields) >= TILES / 6 && atomic_load(&yields) <= TILES / 2);
  scheduler_destroy(pool);
}

int main(void) {
  cpu_set_t some = first_cpus(THREADS);
  RUN(test_cpu_is_offered_between_some_ranges);
  if (CPU_COUNT(&some) < THREADS) {
    printf("  the rest needs %d CPUs\n", THREADS);
    return 0;
  }
  use_cpus(&some);
  RUN(test_every_worker_has_a_cpu_of_its_own);
  RUN(test_fewer_and_more_threads_than_cpus_stay_free);
  RUN(test_caller_with_a_cpu_of_its_own_keeps_it);
  return 0;
}

#else

int main(void) { return 0; }

#endif
