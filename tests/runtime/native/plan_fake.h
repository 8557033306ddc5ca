/* plan_fake.h: what tests know about the artifact of plan_fake.c. */
#ifndef PLAN_FAKE_H
#define PLAN_FAKE_H

/* The payload: float number i is i modulo 1000. Two whole chunks, a partial one, half of a last word. */
#define FAKE_FLOATS 600001
#define FAKE_WEIGHTS_BYTES (4ull * FAKE_FLOATS)

#ifndef FAKE_WEIGHTS_HASH
#define FAKE_WEIGHTS_HASH 0x91e687132c4e9337ull
#endif

enum {
  FAKE_PREPARE,
  FAKE_APPLY,
  FAKE_SLOW,
  FAKE_ROWS = 4,
  FAKE_COLUMNS = 64,
  FAKE_SLOW_MS = 8000
};

#endif
