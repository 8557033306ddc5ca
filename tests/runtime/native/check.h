/* check.h: the smallest test harness: a failed expectation names its place and ends the program, and so does
 * a test that hangs. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

#define RUN(test)                                                                                            \
  do {                                                                                                       \
    alarm(120);                                                                                              \
    test();                                                                                                  \
    printf("  %s\n", #test);                                                                                 \
    fflush(stdout);                                                                                          \
  } while (0)

#endif
