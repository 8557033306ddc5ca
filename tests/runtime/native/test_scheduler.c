/* The scheduler computes every tile of every kernel once, after all of its predecessors, with any number of
 * threads. */
#include "platform.h"

#include "graphs.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum {
  MOST_THREADS = 8,
  SCRATCH_BYTES = 64,
  RANDOM_GRAPHS = 12,
  RUNS = 3
};

static const atomic_bool never;

static scheduler *start(const test_graph *graph, uint32_t threads) {
  char text[256];
  scheduler *pool;
  uint64_t capacity = scheduler_deque_capacity(graph->kernels, graph->count);
  CHECK(scheduler_create(threads, SCRATCH_BYTES, capacity, &pool, (message){text, sizeof text}) == SDCOMP_OK);
  CHECK(scheduler_threads(pool) == threads);
  return pool;
}

static void check_with(test_graph *graph, uint32_t threads) {
  scheduler *pool = start(graph, threads);
  scheduler_job job = graph_job(graph, &never);
  graph_clear(graph);
  for (uint32_t run = 1; run <= RUNS; run++) {
    CHECK(scheduler_run(pool, &job) == SDCOMP_OK);
    graph_check(graph, run);
  }
  scheduler_destroy(pool);
}

static void check_with_every_count(test_graph *graph) {
  graph_finish(graph);
  for (uint32_t threads = 1; threads <= MOST_THREADS; threads++) check_with(graph, threads);
  graph_destroy(graph);
}

static void test_chain(void) {
  test_graph graph = graph_create(200);
  for (uint32_t i = 0; i < graph.count; i++) {
    uint32_t before = i - 1;
    graph_set(&graph, i, 1 + i % 7, 1, &before, i > 0);
  }
  check_with_every_count(&graph);
}

static void test_diamonds(void) {
  test_graph graph = graph_create(3 * 60 + 1);
  graph_set(&graph, 0, 5, 2, NULL, 0);
  for (uint32_t i = 1; i + 2 < graph.count; i += 3) {
    uint32_t top = i - 1, sides[] = {i, i + 1};
    graph_set(&graph, i, 9, 2, &top, 1);
    graph_set(&graph, i + 1, 4, 3, &top, 1);
    graph_set(&graph, i + 2, 6, 1, sides, 2);
  }
  check_with_every_count(&graph);
}

/* All of the fork is pushed on one deque at once: the deepest that a deque of this capacity can get. */
static void test_wide_fork_and_join(void) {
  test_graph graph = graph_create(1502);
  uint32_t *middle = calloc(graph.count, sizeof(uint32_t)), source = 0;
  graph_set(&graph, 0, 1, 1, NULL, 0);
  for (uint32_t i = 1; i + 1 < graph.count; i++) {
    graph_set(&graph, i, 1 + i % 4, 1, &source, 1);
    middle[i - 1] = i;
  }
  graph_set(&graph, graph.count - 1, 3, 1, middle, graph.count - 2);
  free(middle);
  check_with_every_count(&graph);
}

static void test_many_tiles_of_one_kernel(void) {
  test_graph graph = graph_create(1);
  graph_set(&graph, 0, 5000, 3, NULL, 0);
  check_with_every_count(&graph);
}

static void test_independent_kernels(void) {
  test_graph graph = graph_create(300);
  for (uint32_t i = 0; i < graph.count; i++) graph_set(&graph, i, 1 + i % 3, 1, NULL, 0);
  check_with_every_count(&graph);
}

static void test_no_kernels(void) {
  test_graph graph = graph_create(0);
  graph_finish(&graph);
  check_with(&graph, 2);
  graph_destroy(&graph);
}

static uint32_t random_below(uint64_t *state, uint32_t bound) {
  *state = mix(*state + 0x9E3779B97F4A7C15u);
  return (uint32_t)(*state >> 33) % bound;
}

static void test_random_graphs(void) {
  uint64_t state = 7;
  for (int trial = 0; trial < RANDOM_GRAPHS; trial++) {
    test_graph graph = graph_create(20 + random_below(&state, 100));
    for (uint32_t i = 0; i < graph.count; i++) {
      uint32_t predecessors[4], count = i < 4 ? 0 : random_below(&state, 5);
      for (uint32_t p = 0; p < count; p++) predecessors[p] = i / 4 * p + random_below(&state, i / 4);
      graph_set(&graph, i, 1 + random_below(&state, 60), 1 + random_below(&state, 8), predecessors, count);
    }
    check_with_every_count(&graph);
  }
}

/* ---- Cancelling, progress, tracing ------------------------------------------------------------------- */

static atomic_bool cancelled;

static void sleep_one_ms(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static void slow_tiles(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  (void)operands, (void)scratch;
  for (int64_t tile = begin; tile < end; tile++) sleep_one_ms();
}

static void *cancel_soon(void *unused) {
  for (int i = 0; i < 20; i++) sleep_one_ms();
  atomic_store(&cancelled, true);
  return unused;
}

static void test_cancelled_run_ends_and_pool_is_as_before(void) {
  test_graph graph = graph_create(40);
  for (uint32_t i = 0; i < graph.count; i++) {
    uint32_t before = i - 1;
    graph_set(&graph, i, 500, 1, &before, i > 0);
  }
  graph_finish(&graph);
  for (uint32_t i = 0; i < graph.count; i++) graph.kernels[i].run = slow_tiles; /* 20 s of work in all */
  for (uint32_t threads = 1; threads <= 4; threads += 3) {
    scheduler *pool = start(&graph, threads);
    scheduler_job job = graph_job(&graph, &cancelled);
    pthread_t canceller;
    atomic_store(&cancelled, false);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(pthread_create(&canceller, NULL, cancel_soon, NULL) == 0);
    CHECK(scheduler_run(pool, &job) == SDCOMP_CANCELLED);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK(after.tv_sec - before.tv_sec < 3);
    pthread_join(canceller, NULL);
    for (uint32_t i = 0; i < graph.count; i++) graph.kernels[i].run = compute_tiles;
    atomic_store(&cancelled, false);
    graph_clear(&graph);
    CHECK(scheduler_run(pool, &job) == SDCOMP_OK);
    graph_check(&graph, 1);
    for (uint32_t i = 0; i < graph.count; i++) graph.kernels[i].run = slow_tiles;
    scheduler_destroy(pool);
  }
  graph_destroy(&graph);
}

typedef struct reports {
  uint32_t calls, last;
  pthread_t thread;
} reports;

static void count_progress(void *user, uint32_t done, uint32_t total) {
  reports *seen = user;
  CHECK(pthread_equal(pthread_self(), seen->thread));
  CHECK(done > seen->last && done <= total);
  seen->last = done;
  seen->calls++;
}

static void test_progress_and_trace_cover_the_run(void) {
  test_graph graph = graph_create(50);
  for (uint32_t i = 0; i < graph.count; i++) {
    uint32_t before = i - 1;
    graph_set(&graph, i, 37, 5, &before, i > 0);
  }
  graph_finish(&graph);
  scheduler *pool = start(&graph, 3);
  uint64_t capacity = scheduler_range_limit(graph.kernels, graph.count);
  reports seen = {.thread = pthread_self()};
  scheduler_job job = graph_job(&graph, &never);
  job.progress = count_progress;
  job.user = &seen;
  job.trace = calloc(capacity, sizeof(sdcomp_trace_event));
  job.trace_capacity = capacity;
  CHECK(scheduler_run(pool, &job) == SDCOMP_OK);
  CHECK(seen.calls > 0 && seen.last == graph.count);
  CHECK(job.trace_count <= capacity);
  uint32_t tiles = 0;
  for (uint64_t i = 0; i < job.trace_count; i++) {
    CHECK(job.trace[i].worker < 3 && job.trace[i].begin_ns <= job.trace[i].end_ns);
    tiles += job.trace[i].tile_end - job.trace[i].tile_begin;
  }
  CHECK(tiles == 37 * graph.count);
  free(job.trace);
  scheduler_destroy(pool);
  graph_destroy(&graph);
}

static void test_pools_come_and_go(void) {
  test_graph graph = graph_create(1);
  graph_set(&graph, 0, 8, 1, NULL, 0);
  graph_finish(&graph);
  for (uint32_t i = 0; i < 100; i++) scheduler_destroy(start(&graph, 1 + i % 4));
  graph_destroy(&graph);
}

/* CPU time, not wall time: a pool that spins while nothing runs would use all of it. */
static void test_idle_pool_sleeps(void) {
  test_graph graph = graph_create(1);
  graph_set(&graph, 0, 8, 1, NULL, 0);
  graph_finish(&graph);
  scheduler *pool = start(&graph, 4);
  scheduler_job job = graph_job(&graph, &never);
  CHECK(scheduler_run(pool, &job) == SDCOMP_OK);
  for (int i = 0; i < 20; i++) sleep_one_ms();
  struct timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  for (int i = 0; i < 100; i++) sleep_one_ms();
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  CHECK((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 50000000);
  scheduler_destroy(pool);
  graph_destroy(&graph);
}

int main(void) {
  RUN(test_chain);
  RUN(test_diamonds);
  RUN(test_wide_fork_and_join);
  RUN(test_many_tiles_of_one_kernel);
  RUN(test_independent_kernels);
  RUN(test_no_kernels);
  RUN(test_random_graphs);
  RUN(test_cancelled_run_ends_and_pool_is_as_before);
  RUN(test_progress_and_trace_cover_the_run);
  RUN(test_pools_come_and_go);
  RUN(test_idle_pool_sleeps);
  return 0;
}
