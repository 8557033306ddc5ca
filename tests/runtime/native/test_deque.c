/* Every range that is pushed comes out once, whether its owner takes it or a thief steals it. */
#include "platform.h"

#include "check.h"
#include "deque.h"

#include <pthread.h>

enum {
  ITEMS = 100000,
  THIEVES = 3,
  CAPACITY = 64
};

static deque queue;
static _Atomic uint32_t seen[ITEMS];
static atomic_bool finished;

static void note(range item) {
  CHECK(item.begin == item.kernel + 1 && item.end == item.kernel + 2); /* not torn */
  atomic_fetch_add(&seen[item.kernel], 1);
}

static void *thief_main(void *unused) {
  range item;
  while (!atomic_load(&finished)) {
    if (deque_steal(&queue, &item)) note(item);
  }
  return unused;
}

static void test_owner_and_thieves_share_without_loss(void) {
  pthread_t thieves[THIEVES];
  CHECK(deque_create(&queue, CAPACITY));
  for (int i = 0; i < THIEVES; i++) CHECK(pthread_create(&thieves[i], NULL, thief_main, NULL) == 0);
  range item;
  uint32_t next = 0;
  while (next < ITEMS) {
    for (int burst = 0; burst < CAPACITY / 2 && next < ITEMS; burst++, next++) {
      deque_push(&queue, (range){next, next + 1, next + 2});
    }
    while (deque_take(&queue, &item)) note(item);
  }
  atomic_store(&finished, true);
  for (int i = 0; i < THIEVES; i++) pthread_join(thieves[i], NULL);
  for (uint32_t i = 0; i < ITEMS; i++) CHECK(atomic_load(&seen[i]) == 1);
  deque_destroy(&queue);
}

static void test_owner_takes_last_thief_steals_first(void) {
  range item;
  CHECK(deque_create(&queue, 3));
  CHECK(queue.mask == 3);
  for (uint32_t i = 0; i < 4; i++) deque_push(&queue, (range){i, 0, 1});
  CHECK(deque_take(&queue, &item) && item.kernel == 3);
  CHECK(deque_steal(&queue, &item) && item.kernel == 0);
  CHECK(deque_steal(&queue, &item) && item.kernel == 1);
  CHECK(deque_take(&queue, &item) && item.kernel == 2);
  CHECK(!deque_take(&queue, &item) && !deque_steal(&queue, &item));
  deque_destroy(&queue);
}

int main(void) {
  RUN(test_owner_takes_last_thief_steals_first);
  RUN(test_owner_and_thieves_share_without_loss);
  return 0;
}
