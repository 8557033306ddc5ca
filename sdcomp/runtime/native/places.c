#include "platform.h"

#include "places.h"

#ifdef SDCOMP_BINDS_THREADS

void places_find(places *self, uint32_t threads) {
  self->fixed = threads > 1 && sched_getaffinity(0, sizeof self->cpus, &self->cpus) == 0 &&
                (uint32_t)CPU_COUNT(&self->cpus) == threads;
}

bool places_are_own(const places *self) {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_EQUAL(&allowed, &self->cpus);
}

static int cpu_number(const places *self, uint32_t index) {
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &self->cpus) && index-- == 0) return cpu;
  }
  return 0;
}

/* A CPU that was taken offline or from the process meanwhile is no reason to fail: the thread stays free. */
void places_bind(const places *self, pthread_t thread, uint32_t index) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu_number(self, index), &one);
  pthread_setaffinity_np(thread, sizeof one, &one);
}

void places_release(const places *self, pthread_t thread) {
  pthread_setaffinity_np(thread, sizeof self->cpus, &self->cpus);
}

#else

void places_find(places *self, uint32_t threads) {
  (void)threads;
  self->fixed = false;
}

bool places_are_own(const places *self) {
  (void)self;
  return false;
}

void places_bind(const places *self, pthread_t thread, uint32_t index) {
  (void)self, (void)thread, (void)index;
}

void places_release(const places *self, pthread_t thread) { (void)self, (void)thread; }

#endif
