/* model.h: what the source files of the runtime share behind the opaque handles. */
#ifndef SDCOMP_MODEL_H
#define SDCOMP_MODEL_H

#include "payload.h"
#include "plan.h"
#include "scheduler.h"

#include <string.h>

struct sdcomp_model {
  const sdcomp_plan *plan;
  payload weights;
  scheduler *pool;
  _Atomic uint32_t contexts;
};

/* Copies a structure that starts with its size (rule 2 of sdcomp.h) over *own, whose tail keeps its values.
 * False where the caller's is longer and asks, behind the end of this version, for something. */
static inline bool versioned_read(void *own, uint32_t own_bytes, const void *given) {
  uint32_t given_bytes;
  memcpy(&given_bytes, given, sizeof given_bytes);
  memcpy(own, given, given_bytes < own_bytes ? given_bytes : own_bytes);
  for (uint32_t i = own_bytes; i < given_bytes; i++) {
    if (((const unsigned char *)given)[i] != 0) return false;
  }
  return true;
}

/* Copies as much of *own as the caller's structure has room for; the caller's size stays. */
static inline void versioned_write(void *given, const void *own, uint32_t own_bytes) {
  uint32_t given_bytes;
  memcpy(&given_bytes, given, sizeof given_bytes);
  uint32_t bytes = given_bytes < own_bytes ? given_bytes : own_bytes;
  if (bytes > sizeof bytes)
    memcpy((char *)given + sizeof bytes, (const char *)own + sizeof bytes, bytes - sizeof bytes);
}

#endif
