/* places.h: a CPU of its own for each thread of a pool that has as many threads as there are CPUs.
 *
 * Linux shares time out by threads. With two workers and one stranger on two CPUs it moves the workers until
 * each of the three has two thirds of a CPU; and a worker that was woken may find itself behind the one that
 * woke it. A worker that stays where it is shares that one CPU by halves, and leaves the others alone.
 */
#ifndef SDCOMP_PLACES_H
#define SDCOMP_PLACES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__linux__) && !defined(__ANDROID__) /* whose C library cannot bind other threads */
#define SDCOMP_BINDS_THREADS 1
#endif

#ifdef SDCOMP_BINDS_THREADS
#include <sched.h>
#endif

typedef struct places {
  bool fixed; /* false: threads run wherever the operating system puts them */
#ifdef SDCOMP_BINDS_THREADS
  cpu_set_t cpus;
#endif
} places;

/* Fixed where the calling thread may use as many CPUs as there are threads, which are more than one. */
void places_find(places *self, uint32_t threads);

/* Whether the calling thread may use these CPUs and no others. */
bool places_are_own(const places *self);

/* Keeps a thread on CPU number `index` of the fixed places. */
void places_bind(const places *self, pthread_t thread, uint32_t index);

/* Lets a thread use all of the fixed places again. */
void places_release(const places *self, pthread_t thread);

#endif
