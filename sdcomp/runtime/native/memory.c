#include "platform.h"

#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

size_t memory_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static size_t mapping_bytes(uint64_t bytes) { return bytes == 0 ? memory_page_bytes() : (size_t)bytes; }

void *memory_map(uint64_t bytes) {
  void *data = mmap(NULL, mapping_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? NULL : data;
}

void memory_unmap(void *data, uint64_t bytes) {
  if (data != NULL) munmap(data, mapping_bytes(bytes));
}

void memory_drop(const void *data, uint64_t bytes) {
  uintptr_t page = memory_page_bytes();
  uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
  uintptr_t end = ((uintptr_t)data + bytes) / page * page;
  if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}
