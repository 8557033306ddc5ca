#include "platform.h"

#include "message.h"

#include <stdarg.h>
#include <stdio.h>

sdcomp_status refuse(message error, sdcomp_status status, const char *format, ...) {
  if (error.text == NULL || error.bytes == 0) return status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error.text, error.bytes, format, arguments);
  va_end(arguments);
  return status;
}
