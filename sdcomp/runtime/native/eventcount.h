/* eventcount.h: sleeping until something may have changed, without a lock on the way of those who change it.
 *
 * A sleeper announces itself (prepare), looks once more, and then waits or cancels. Who changes something
 * stores it with sequential consistency and then notifies. Either the notifier sees the announcement, or the
 * sleeper's last look sees the change: no wake-up is lost, and a notification without sleepers is one load.
 */
#ifndef SDCOMP_EVENTCOUNT_H
#define SDCOMP_EVENTCOUNT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct eventcount {
  _Atomic uint32_t sleepers;
  _Atomic uint32_t epoch; /* changes with every notification */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
} eventcount;

static inline void eventcount_create(eventcount *event) {
  atomic_init(&event->sleepers, 0);
  atomic_init(&event->epoch, 0);
  pthread_mutex_init(&event->mutex, NULL);
  pthread_cond_init(&event->changed, NULL);
}

static inline void eventcount_destroy(eventcount *event) {
  pthread_cond_destroy(&event->changed);
  pthread_mutex_destroy(&event->mutex);
}

static inline uint32_t eventcount_prepare(eventcount *event) {
  atomic_fetch_add_explicit(&event->sleepers, 1, memory_order_seq_cst);
  return atomic_load_explicit(&event->epoch, memory_order_seq_cst);
}

static inline void eventcount_cancel(eventcount *event) {
  atomic_fetch_sub_explicit(&event->sleepers, 1, memory_order_seq_cst);
}

static inline void eventcount_wait(eventcount *event, uint32_t ticket) {
  pthread_mutex_lock(&event->mutex);
  while (atomic_load_explicit(&event->epoch, memory_order_relaxed) == ticket)
    pthread_cond_wait(&event->changed, &event->mutex);
  pthread_mutex_unlock(&event->mutex);
  eventcount_cancel(event);
}

static inline void eventcount_notify(eventcount *event, bool everyone) {
  if (atomic_load_explicit(&event->sleepers, memory_order_seq_cst) == 0) return;
  pthread_mutex_lock(&event->mutex);
  atomic_fetch_add_explicit(&event->epoch, 1, memory_order_seq_cst);
  if (everyone) pthread_cond_broadcast(&event->changed);
  else pthread_cond_signal(&event->changed);
  pthread_mutex_unlock(&event->mutex);
}

#endif
