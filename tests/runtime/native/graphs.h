/* graphs.h: graphs of kernels for the scheduler's tests. A kernel's tile mixes every tile of every
 * predecessor into one number, so that a kernel that starts too early, or a tile that is computed twice or
 * never, changes the result. */
#ifndef GRAPHS_H
#define GRAPHS_H

#include "check.h"
#include "scheduler.h"

#include <string.h>

typedef struct node {
  uint32_t tiles;
  uint64_t *values;     /* one per tile */
  uint32_t *executions; /* one per tile; plain, so that ThreadSanitizer sees two workers at one tile */
  const struct test_graph *graph;
  uint32_t *predecessors;
  uint32_t predecessor_count;
  uint32_t number;
} node;

typedef struct test_graph {
  node *nodes;
  sdcomp_plan_kernel *kernels;
  uint32_t count;
  uint32_t *successors;
  void **operands;
  _Atomic uint32_t *dependencies, *remaining;
} test_graph;

static inline uint64_t mix(uint64_t value) {
  value = (value ^ value >> 31) * 0x9E3779B97F4A7C15u;
  return value ^ value >> 29;
}

static inline uint64_t expected_seed(const node *self) {
  uint64_t seed = self->number;
  for (uint32_t p = 0; p < self->predecessor_count; p++) {
    const node *before = &self->graph->nodes[self->predecessors[p]];
    for (uint32_t t = 0; t < before->tiles; t++) seed = mix(seed + before->values[t]);
  }
  return seed;
}

static inline void compute_tiles(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  node *self = operands[0];
  uint64_t *private = scratch; /* two workers that share scratch would be a race here */
private
  [0] = expected_seed(self);
  for (int64_t tile = begin; tile < end; tile++) {
    self->values[tile] = mix(private[0] + (uint64_t)tile);
    self->executions[tile]++;
  }
}

static inline test_graph graph_create(uint32_t count) {
  test_graph result = {.count = count};
  result.nodes = calloc(count, sizeof(node));
  result.kernels = calloc(count, sizeof(sdcomp_plan_kernel));
  result.operands = calloc(count, sizeof(void *));
  result.dependencies = calloc(count, sizeof *result.dependencies);
  result.remaining = calloc(count, sizeof *result.remaining);
  return result;
}

/* Predecessors must have lower numbers. */
static inline void graph_set(test_graph *graph, uint32_t number, uint32_t tiles, uint32_t grain,
                             const uint32_t *predecessors, uint32_t predecessor_count) {
  node *self = &graph->nodes[number];
  *self = (node){.tiles = tiles, .predecessor_count = predecessor_count, .number = number};
  self->values = calloc(tiles, sizeof(uint64_t));
  self->executions = calloc(tiles, sizeof(uint32_t));
  self->predecessors = calloc(predecessor_count + 1, sizeof(uint32_t));
  if (predecessor_count > 0) memcpy(self->predecessors, predecessors, predecessor_count * sizeof(uint32_t));
  graph->kernels[number] = (sdcomp_plan_kernel){.name = "node",
                                                .run = compute_tiles,
                                                .tiles = tiles,
                                                .grain = grain,
                                                .first_operand = number,
                                                .operand_count = 1,
                                                .dependencies = predecessor_count};
}

static inline void graph_finish(test_graph *graph) {
  uint32_t edges = 0;
  for (uint32_t i = 0; i < graph->count; i++) edges += graph->nodes[i].predecessor_count;
  graph->successors = calloc(edges + 1, sizeof(uint32_t));
  uint32_t used = 0;
  for (uint32_t i = 0; i < graph->count; i++) {
    graph->nodes[i].graph = graph;
    graph->operands[i] = &graph->nodes[i];
    graph->kernels[i].first_successor = used;
    for (uint32_t j = i + 1; j < graph->count; j++) {
      for (uint32_t p = 0; p < graph->nodes[j].predecessor_count; p++) {
        if (graph->nodes[j].predecessors[p] == i) graph->successors[used++] = j;
      }
    }
    graph->kernels[i].successor_count = used - graph->kernels[i].first_successor;
  }
}

static inline scheduler_job graph_job(const test_graph *graph, const atomic_bool *cancelled) {
  return (scheduler_job){.kernels = graph->kernels,
                         .kernel_count = graph->count,
                         .successors = graph->successors,
                         .operands = graph->operands,
                         .dependencies = graph->dependencies,
                         .remaining = graph->remaining,
                         .cancelled = cancelled};
}

/* Recomputes in the order of numbers, which is a topological one. */
static inline void graph_check(const test_graph *graph, uint32_t runs) {
  for (uint32_t i = 0; i < graph->count; i++) {
    const node *self = &graph->nodes[i];
    uint64_t seed = expected_seed(self);
    for (uint32_t t = 0; t < self->tiles; t++) {
      CHECK(self->values[t] == mix(seed + t));
      CHECK(self->executions[t] == runs);
    }
  }
}

static inline void graph_clear(test_graph *graph) {
  for (uint32_t i = 0; i < graph->count; i++) {
    memset(graph->nodes[i].values, 0, graph->nodes[i].tiles * sizeof(uint64_t));
    memset(graph->nodes[i].executions, 0, graph->nodes[i].tiles * sizeof(uint32_t));
  }
}

static inline void graph_destroy(test_graph *graph) {
  for (uint32_t i = 0; i < graph->count; i++) {
    free(graph->nodes[i].values);
    free(graph->nodes[i].executions);
    free(graph->nodes[i].predecessors);
  }
  free(graph->nodes);
  free(graph->kernels);
  free(graph->successors);
  free(graph->operands);
  free(graph->dependencies);
  free(graph->remaining);
}

#endif
