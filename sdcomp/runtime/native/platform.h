/* platform.h: feature macros of the system headers. The first include of every source file. */
#ifndef SDCOMP_PLATFORM_H
#define SDCOMP_PLATFORM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, madvise and CPU_COUNT, which -std=c11 hides */
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payloads are little-endian and read as they are");
_Static_assert(sizeof(void *) == 8, "payloads are mapped whole: the address space must be 64 bits wide");

#endif
