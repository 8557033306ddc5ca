#include "platform.h"

#include "payload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(payload_trailer) == 64, "the trailer is read as it lies in the file");

/* ---- Hash ---------------------------------------------------------------------------------------------- */

/* Output number index of splitmix64 (Steele, Lea and Flood 2014) seeded with 0, made odd: an odd factor loses
 * no bit of a word. */
static uint64_t multiplier(uint64_t index) {
  uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return (z ^ z >> 31) | 1;
}

/* The upper half is folded onto the lower: bit 63 times any odd number is bit 63, so two words that differ
 * there would cancel. */
static uint64_t hash_word(uint64_t word, uint64_t index) { return (word ^ word >> 32) * multiplier(index); }

uint64_t payload_hash_words(uint64_t sum, const void *data, uint64_t bytes, uint64_t first_word) {
  const unsigned char *source = data;
  uint64_t whole = bytes / 8, word = 0;
  for (uint64_t i = 0; i < whole; i++) {
    memcpy(&word, source + 8 * i, 8);
    sum += hash_word(word, first_word + i);
  }
  if (bytes % 8 == 0) return sum;
  word = 0;
  memcpy(&word, source + 8 * whole, bytes % 8);
  return sum + hash_word(word, first_word + whole);
}

uint64_t payload_hash_finish(uint64_t sum, uint64_t bytes) { return sum + bytes * multiplier(UINT64_MAX); }

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* 0, or an errno; a file that ends early is EIO. */
static int read_fully(int file, void *buffer, uint64_t bytes, uint64_t offset) {
  unsigned char *target = buffer;
  while (bytes > 0) {
    ssize_t got = pread(file, target, bytes, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return EIO;
    target += got;
    offset += (uint64_t)got;
    bytes -= (uint64_t)got;
  }
  return 0;
}

static uint64_t chunk_count(const payload *weights) {
  return weights->trailer.bytes / PAYLOAD_CHUNK_BYTES + (weights->trailer.bytes % PAYLOAD_CHUNK_BYTES != 0);
}

static uint64_t chunk_bytes(const payload *weights, uint64_t chunk) {
  uint64_t left = weights->trailer.bytes - chunk * PAYLOAD_CHUNK_BYTES;
  return left < PAYLOAD_CHUNK_BYTES ? left : PAYLOAD_CHUNK_BYTES;
}

/* Every field follows from the others and the size of the file; no sum below can wrap once bytes and offset
 * are below file_bytes. */
static bool trailer_fits(const payload *weights, uint64_t file_bytes) {
  const payload_trailer *trailer = &weights->trailer;
  if (trailer->offset > file_bytes || trailer->bytes > file_bytes - trailer->offset) return false;
  if (trailer->offset % PAYLOAD_ALIGNMENT != 0 || trailer->chunk_bytes != PAYLOAD_CHUNK_BYTES ||
      trailer->reserved != 0)
    return false;
  uint64_t end = trailer->offset + trailer->bytes;
  uint64_t table_offset = (end + 7) / 8 * 8;
  return trailer->table_offset == table_offset &&
         table_offset + 8 * chunk_count(weights) + sizeof *trailer == file_bytes;
}

static sdcomp_status read_trailer(payload *weights, message error) {
  struct stat info;
  payload_trailer *trailer = &weights->trailer;
  if (fstat(weights->file, &info) != 0)
    return refuse(error, SDCOMP_SYSTEM, "%s: %s", weights->path, strerror(errno));
  uint64_t file_bytes = (uint64_t)info.st_size;
  int failure = file_bytes < sizeof *trailer
                    ? 0
                    : read_fully(weights->file, trailer, sizeof *trailer, file_bytes - sizeof *trailer);
  if (failure != 0) return refuse(error, SDCOMP_SYSTEM, "%s: %s", weights->path, strerror(failure));
  if (memcmp(trailer->magic, PAYLOAD_MAGIC, sizeof trailer->magic) != 0) {
    return refuse(
        error, SDCOMP_MISSING,
        "%s: carries no weights payload at its end: it is truncated, or its weights are in another file",
        weights->path);
  }
  if (trailer->version != PAYLOAD_VERSION) {
    return refuse(error, SDCOMP_UNSUPPORTED,
                  "%s: its payload has format version %u and this library reads version %d: build it again",
                  weights->path, trailer->version, PAYLOAD_VERSION);
  }
  if (trailer_fits(weights, file_bytes)) return SDCOMP_OK;
  return refuse(error, SDCOMP_DAMAGED,
                "%s: the payload's trailer (offset %llu, %llu bytes, table at %llu) contradicts the size of "
                "the file, %llu bytes: it is truncated or damaged; copy or build it again",
                weights->path, (unsigned long long)trailer->offset, (unsigned long long)trailer->bytes,
                (unsigned long long)trailer->table_offset, (unsigned long long)file_bytes);
}

/* The file holds the table, so its size is bounded by the file's. */
static sdcomp_status read_table(payload *weights, message error) {
  uint64_t bytes = 8 * chunk_count(weights);
  weights->table = malloc(bytes + 8);
  if (weights->table == NULL)
    return refuse(error, SDCOMP_SYSTEM, "%s: out of memory for its table of hashes", weights->path);
  int failure = read_fully(weights->file, weights->table, bytes, weights->trailer.table_offset);
  if (failure != 0) return refuse(error, SDCOMP_SYSTEM, "%s: %s", weights->path, strerror(failure));
  uint64_t hash = payload_hash_finish(payload_hash_words(0, weights->table, bytes, 0), bytes);
  if (hash == weights->trailer.hash) return SDCOMP_OK;
  return refuse(error, SDCOMP_DAMAGED,
                "%s: the payload's table of hashes (bytes %llu to %llu) is damaged; copy or build it again",
                weights->path, (unsigned long long)weights->trailer.table_offset,
                (unsigned long long)(weights->trailer.table_offset + bytes));
}

sdcomp_status payload_open(const char *path, payload *result, message error) {
  *result = (payload){.path = strdup(path)};
  result->file = open(path, O_RDONLY | O_CLOEXEC);
  sdcomp_status status = SDCOMP_OK;
  if (result->path == NULL) status = refuse(error, SDCOMP_SYSTEM, "%s: out of memory for its name", path);
  else if (result->file < 0)
    status = refuse(error, errno == ENOENT ? SDCOMP_MISSING : SDCOMP_SYSTEM, "%s: %s", path, strerror(errno));
  if (status == SDCOMP_OK) status = read_trailer(result, error);
  if (status == SDCOMP_OK) status = read_table(result, error);
  if (status != SDCOMP_OK) payload_close(result);
  return status;
}

/* ---- Verifying ----------------------------------------------------------------------------------------- */

typedef struct verification {
  const payload *weights;
  _Atomic uint64_t damaged; /* first chunk that does not match; UINT64_MAX: none */
  _Atomic int failure;      /* an errno of reading, or 0 */
} verification;

static void note_damage(verification *check, uint64_t chunk) {
  uint64_t first = atomic_load_explicit(&check->damaged, memory_order_relaxed);
  while (chunk < first) {
    if (atomic_compare_exchange_weak_explicit(&check->damaged, &first, chunk, memory_order_relaxed,
                                              memory_order_relaxed))
      return;
  }
}

static void verify_chunk(verification *check, void *buffer, uint64_t chunk) {
  const payload *weights = check->weights;
  uint64_t bytes = chunk_bytes(weights, chunk), sum = 0;
  for (uint64_t done = 0; done < bytes; done += PAYLOAD_SCRATCH_BYTES) {
    uint64_t piece = bytes - done < PAYLOAD_SCRATCH_BYTES ? bytes - done : PAYLOAD_SCRATCH_BYTES;
    int failure = read_fully(weights->file, buffer, piece,
                             weights->trailer.offset + chunk * PAYLOAD_CHUNK_BYTES + done);
    if (failure != 0) {
      atomic_store_explicit(&check->failure, failure, memory_order_relaxed);
      return;
    }
    sum = payload_hash_words(sum, buffer, piece, done / 8);
  }
  if (payload_hash_finish(sum, bytes) != weights->table[chunk]) note_damage(check, chunk);
}

/* A kernel like any other, so that the pool is used as it is: one tile is one chunk. */
static void verify_kernel(void *const *operands, void *scratch, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; chunk++) verify_chunk(operands[0], scratch, (uint64_t)chunk);
}

sdcomp_status payload_verify(const payload *weights, scheduler *pool, message error) {
  uint64_t chunks = chunk_count(weights);
  if (chunks == 0) return SDCOMP_OK;
  if (chunks > UINT32_MAX)
    return refuse(error, SDCOMP_UNSUPPORTED, "%s: a payload of more than 4 PiB", weights->path);
  verification check = {.weights = weights, .damaged = UINT64_MAX};
  void *operands[] = {&check};
  _Atomic uint32_t dependencies[1], remaining[1];
  const atomic_bool cancelled = false;
  const sdcomp_plan_kernel kernel = {
      .name = "verify", .run = verify_kernel, .tiles = (uint32_t)chunks, .grain = 1, .operand_count = 1};
  scheduler_job job = {.kernels = &kernel,
                       .kernel_count = 1,
                       .operands = operands,
                       .dependencies = dependencies,
                       .remaining = remaining,
                       .cancelled = &cancelled};
  scheduler_run(pool, &job);
  if (check.failure != 0)
    return refuse(error, SDCOMP_SYSTEM, "%s: cannot be read: %s", weights->path, strerror(check.failure));
  if (check.damaged == UINT64_MAX) return SDCOMP_OK;
  uint64_t begin = weights->trailer.offset + check.damaged * PAYLOAD_CHUNK_BYTES;
  return refuse(
      error, SDCOMP_DAMAGED,
      "%s: bytes %llu to %llu are damaged (their hash is not the recorded one); copy or build it again",
      weights->path, (unsigned long long)begin,
      (unsigned long long)(begin + chunk_bytes(weights, check.damaged)));
}

/* ---- Mapping ------------------------------------------------------------------------------------------- */

sdcomp_status payload_map(payload *weights, message error) {
  if (weights->trailer.bytes == 0) return SDCOMP_OK;
  void *data = mmap(NULL, weights->trailer.bytes, PROT_READ, MAP_SHARED, weights->file,
                    (off_t)weights->trailer.offset);
  if (data == MAP_FAILED) {
    return refuse(error, SDCOMP_SYSTEM, "%s: cannot map its %llu bytes of weights: %s", weights->path,
                  (unsigned long long)weights->trailer.bytes, strerror(errno));
  }
  weights->data = data;
  return SDCOMP_OK;
}

void payload_close(payload *weights) {
  if (weights->data != NULL) munmap((void *)weights->data, weights->trailer.bytes);
  if (weights->file >= 0) close(weights->file);
  free(weights->table);
  free(weights->path);
  *weights = (payload){.file = -1};
}
