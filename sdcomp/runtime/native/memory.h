/* memory.h: anonymous pages, taken from the system when they are first written. */
#ifndef SDCOMP_MEMORY_H
#define SDCOMP_MEMORY_H

#include <stddef.h>
#include <stdint.h>

size_t memory_page_bytes(void);

/* Page-aligned zeros, or NULL where the system refuses. Zero bytes give a valid, unusable mapping of one
 * page. */
void *memory_map(uint64_t bytes);
void memory_unmap(void *data, uint64_t bytes);

/* Drops the resident pages that lie wholly inside the range: anonymous ones read as zeros again, those of a
 * file come back from it. */
void memory_drop(const void *data, uint64_t bytes);

#endif
