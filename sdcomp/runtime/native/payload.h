/* payload.h: the weights behind the code of an artifact, or in a file of their own.
 *
 *   anything | padding to 64 KiB | payload | zeros to 8 bytes | one u64 hash per 1 MiB of payload | trailer
 * of 64 bytes
 *
 * The trailer is last, so that it is found from the end of the file whatever comes before. The hash of the
 * table of hashes is the payload's identity: the plan holds it too (weights_hash). Hashes detect damage, not
 * tampering: whoever can write the file can as well write code into it. docs/artifact.md has the whole of the
 * format; sdcomp/runtime/payload.py writes it.
 */
#ifndef SDCOMP_PAYLOAD_H
#define SDCOMP_PAYLOAD_H

#include "message.h"
#include "scheduler.h"

enum {
  PAYLOAD_ALIGNMENT = 1 << 16, /* the largest page in use: any kernel can map the payload where it lies */
  PAYLOAD_CHUNK_BYTES = 1 << 20,
  PAYLOAD_SCRATCH_BYTES = 1
      << 16, /* what payload_verify needs per worker; a chunk is read in pieces that stay in the cache */
  PAYLOAD_VERSION = 1
};

typedef struct payload_trailer {
  char magic[8]; /* PAYLOAD_MAGIC without its NUL */
  uint32_t version;
  uint32_t chunk_bytes;
  uint64_t offset; /* from the start of the file, as table_offset is */
  uint64_t bytes;
  uint64_t table_offset;
  uint64_t hash;       /* of the table */
  uint64_t image_hash; /* of what lies before the payload, for those who want to check code before they load
                          it; 0: not recorded */
  uint64_t reserved;   /* 0 */
} payload_trailer;

#define PAYLOAD_MAGIC "SDCOMPWT"

typedef struct payload {
  int file; /* -1: none */
  char *path;
  payload_trailer trailer;
  uint64_t *table;
  const unsigned char *data; /* the mapping; NULL until payload_map, and for a payload of no bytes */
} payload;

/* Sum of hashed words; the hash of a whole is hash_words over its pieces in order, then hash_finish. Words
 * are little-endian, the last one filled up with zeros. first_word is the number of words before this piece.
 */
uint64_t payload_hash_words(uint64_t sum, const void *data, uint64_t bytes, uint64_t first_word);
uint64_t payload_hash_finish(uint64_t sum, uint64_t bytes);

/* Reads and checks trailer and table. SDCOMP_MISSING where there is no such file or it carries no trailer. On
 * failure *result needs no closing. */
sdcomp_status payload_open(const char *path, payload *result, message error);

/* Reads every byte with pread (the mapping would count as resident memory) on all threads of the pool, and
 * compares the hashes. */
sdcomp_status payload_verify(const payload *weights, scheduler *pool, message error);

sdcomp_status payload_map(payload *weights, message error);

void payload_close(payload *weights);

#endif
