/* message.h: the caller's buffer for one line of error text. */
#ifndef SDCOMP_MESSAGE_H
#define SDCOMP_MESSAGE_H

#include "sdcomp.h"

typedef struct message {
  char *text; /* or NULL */
  size_t bytes;
} message;

/* Writes the text and returns the status, so that a guard is one statement: return refuse(error,
 * SDCOMP_INVALID, "..."). */
sdcomp_status refuse(message error, sdcomp_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
