/* deque.h: a bounded work-stealing deque of ranges (Chase and Lev 2005; in C11 after Lê,
 * Pop, Cohen and Zappa Nardelli 2013).
 *
 * The owner pushes and takes at the bottom, thieves steal at the top. Two departures from the paper's
 * listing:
 * - bounded: plans are static, so the scheduler knows how deep a deque can get (scheduler_deque_capacity),
 * and nothing is resized;
 * - the paper orders the owner's store of bottom before its load of top, and a thief's load of top before its
 * load of bottom, with sequentially consistent fences. Here the four accesses are themselves sequentially
 * consistent: the same order between the same two words, one instruction less on x86, and visible to
 * ThreadSanitizer, which does not model fences.
 *
 * A range is three words, which a thief may read torn while the owner writes the slot again. That needs a
 * ring that has gone round, so top has moved, the thief's compare-and-swap fails, and what it read is
 * dropped.
 */
#ifndef SDCOMP_DEQUE_H
#define SDCOMP_DEQUE_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct range {
  uint32_t kernel, begin, end;
} range;

typedef struct deque_slot {
  _Atomic uint32_t kernel, begin, end;
} deque_slot;

typedef struct deque {
  alignas(64) _Atomic int64_t top; /* a cache line each: thieves write top, the owner writes bottom */
  alignas(64) _Atomic int64_t bottom;
  alignas(64) deque_slot *slots;
  int64_t mask;
} deque;

/* Makes room for at least capacity ranges. False where memory is refused. */
static inline bool deque_create(deque *queue, uint64_t capacity) {
  uint64_t slots = 1;
  while (slots < capacity) slots *= 2;
  queue->slots = calloc(slots, sizeof(deque_slot));
  queue->mask = (int64_t)slots - 1;
  atomic_init(&queue->top, 0);
  atomic_init(&queue->bottom, 0);
  return queue->slots != NULL;
}

static inline void deque_destroy(deque *queue) { free(queue->slots); }

static inline range deque_read(deque *queue, int64_t position) {
  deque_slot *slot = &queue->slots[position & queue->mask];
  return (range){atomic_load_explicit(&slot->kernel, memory_order_relaxed),
                 atomic_load_explicit(&slot->begin, memory_order_relaxed),
                 atomic_load_explicit(&slot->end, memory_order_relaxed)};
}

/* Owner only. The store of bottom publishes the slot, and what the owner did before, to the thief that reads
 * it. */
static inline void deque_push(deque *queue, range item) {
  int64_t bottom = atomic_load_explicit(&queue->bottom, memory_order_relaxed);
  assert(bottom - atomic_load_explicit(&queue->top, memory_order_acquire) <= queue->mask);
  deque_slot *slot = &queue->slots[bottom & queue->mask];
  atomic_store_explicit(&slot->kernel, item.kernel, memory_order_relaxed);
  atomic_store_explicit(&slot->begin, item.begin, memory_order_relaxed);
  atomic_store_explicit(&slot->end, item.end, memory_order_relaxed);
  atomic_store_explicit(&queue->bottom, bottom + 1, memory_order_seq_cst);
}

/* Owner only: the range that was pushed last. */
static inline bool deque_take(deque *queue, range *item) {
  int64_t bottom = atomic_load_explicit(&queue->bottom, memory_order_relaxed) - 1;
  atomic_store_explicit(&queue->bottom, bottom, memory_order_seq_cst);
  int64_t top = atomic_load_explicit(&queue->top, memory_order_seq_cst);
  if (top < bottom) {
    *item = deque_read(queue, bottom);
    return true;
  }
  bool won = false;
  if (top == bottom) { /* the last one: thieves may be after it too */
    *item = deque_read(queue, bottom);
    won = atomic_compare_exchange_strong_explicit(&queue->top, &top, top + 1, memory_order_seq_cst,
                                                  memory_order_relaxed);
  }
  atomic_store_explicit(&queue->bottom, bottom + 1, memory_order_release);
  return won;
}

/* Any thread: the range that was pushed first. False only where the deque was empty: a lost race is tried
 * again. */
static inline bool deque_steal(deque *queue, range *item) {
  for (;;) {
    int64_t top = atomic_load_explicit(&queue->top, memory_order_seq_cst);
    int64_t bottom = atomic_load_explicit(&queue->bottom, memory_order_seq_cst);
    if (top >= bottom) return false;
    *item = deque_read(queue, top);
    if (atomic_compare_exchange_strong_explicit(&queue->top, &top, top + 1, memory_order_seq_cst,
                                                memory_order_relaxed))
      return true;
  }
}

#endif
