#include "platform.h"

#include "cpu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>

/* Registers that the operating system must save for a feature to be usable: bits of XCR0. */
enum {
  PLAIN = 0,
  YMM = 0x6,
  ZMM = 0xE6,
  AMX = 0x60006
};
enum {
  EAX,
  EBX,
  ECX,
  EDX
};

typedef struct feature {
  const char *name;
  uint32_t leaf, subleaf, output, bit; /* of CPUID (Intel SDM volume 2A, AMD APM volume 3 appendix E) */
  uint64_t saved;
} feature;

static const feature features[] = {
    {"cx8", 1, 0, EDX, 8, PLAIN},
    {"cmov", 1, 0, EDX, 15, PLAIN},
    {"mmx", 1, 0, EDX, 23, PLAIN},
    {"fxsr", 1, 0, EDX, 24, PLAIN},
    {"sse", 1, 0, EDX, 25, PLAIN},
    {"sse2", 1, 0, EDX, 26, PLAIN},
    {"sse3", 1, 0, ECX, 0, PLAIN},
    {"pclmul", 1, 0, ECX, 1, PLAIN},
    {"ssse3", 1, 0, ECX, 9, PLAIN},
    {"fma", 1, 0, ECX, 12, YMM},
    {"cx16", 1, 0, ECX, 13, PLAIN},
    {"sse4.1", 1, 0, ECX, 19, PLAIN},
    {"sse4.2", 1, 0, ECX, 20, PLAIN},
    {"crc32", 1, 0, ECX, 20, PLAIN},
    {"movbe", 1, 0, ECX, 22, PLAIN},
    {"popcnt", 1, 0, ECX, 23, PLAIN},
    {"aes", 1, 0, ECX, 25, PLAIN},
    {"xsave", 1, 0, ECX, 27, PLAIN}, /* bit 27, OSXSAVE: offered and switched on */
    {"avx", 1, 0, ECX, 28, YMM},
    {"f16c", 1, 0, ECX, 29, YMM},
    {"rdrnd", 1, 0, ECX, 30, PLAIN},
    {"fsgsbase", 7, 0, EBX, 0, PLAIN},
    {"bmi", 7, 0, EBX, 3, PLAIN},
    {"avx2", 7, 0, EBX, 5, YMM},
    {"bmi2", 7, 0, EBX, 8, PLAIN},
    {"avx512f", 7, 0, EBX, 16, ZMM},
    {"avx512dq", 7, 0, EBX, 17, ZMM},
    {"rdseed", 7, 0, EBX, 18, PLAIN},
    {"adx", 7, 0, EBX, 19, PLAIN},
    {"avx512ifma", 7, 0, EBX, 21, ZMM},
    {"clflushopt", 7, 0, EBX, 23, PLAIN},
    {"avx512cd", 7, 0, EBX, 28, ZMM},
    {"sha", 7, 0, EBX, 29, PLAIN},
    {"avx512bw", 7, 0, EBX, 30, ZMM},
    {"avx512vl", 7, 0, EBX, 31, ZMM},
    {"avx512vbmi", 7, 0, ECX, 1, ZMM},
    {"avx512vbmi2", 7, 0, ECX, 6, ZMM},
    {"gfni", 7, 0, ECX, 8, PLAIN},
    {"vaes", 7, 0, ECX, 9, YMM},
    {"vpclmulqdq", 7, 0, ECX, 10, YMM},
    {"avx512vnni", 7, 0, ECX, 11, ZMM},
    {"avx512bitalg", 7, 0, ECX, 12, ZMM},
    {"avx512vpopcntdq", 7, 0, ECX, 14, ZMM},
    {"amx-bf16", 7, 0, EDX, 22, AMX},
    {"avx512fp16", 7, 0, EDX, 23, ZMM},
    {"amx-tile", 7, 0, EDX, 24, AMX},
    {"amx-int8", 7, 0, EDX, 25, AMX},
    {"avxvnni", 7, 1, EAX, 4, YMM},
    {"avx512bf16", 7, 1, EAX, 5, ZMM},
    {"avxifma", 7, 1, EAX, 23, YMM},
    {"avxvnniint8", 7, 1, EDX, 4, YMM},
    {"avxneconvert", 7, 1, EDX, 5, YMM},
    {"avxvnniint16", 7, 1, EDX, 10, YMM},
    {"sahf", 0x80000001, 0, ECX, 0, PLAIN},
    {"lzcnt", 0x80000001, 0, ECX, 5, PLAIN},
    {"sse4a", 0x80000001, 0, ECX, 6, PLAIN},
    {"prfchw", 0x80000001, 0, ECX, 8, PLAIN},
    {"64bit", 0x80000001, 0, EDX, 29, PLAIN},
};

static uint64_t saved_registers(void) {
  uint32_t registers[4] = {0};
  if (!__get_cpuid(1, &registers[EAX], &registers[EBX], &registers[ECX], &registers[EDX])) return 0;
  if (!(registers[ECX] >> 27 & 1)) return 0; /* no XGETBV without OSXSAVE */
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

static bool is_offered(const feature *wanted) {
  uint32_t registers[4] = {0};
  if (!__get_cpuid_count(wanted->leaf, wanted->subleaf, &registers[EAX], &registers[EBX], &registers[ECX],
                         &registers[EDX])) {
    return false;
  }
  bool in_cpu = registers[wanted->output] >> wanted->bit & 1;
  return in_cpu && (saved_registers() & wanted->saved) == wanted->saved;
}

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>
#endif

enum {
  BASELINE,
  HWCAP,
  HWCAP2
};

typedef struct feature {
  const char *name;
  uint32_t word, bit; /* of the auxiliary vector (Linux, Documentation/arch/arm64/elf_hwcaps.rst) */
} feature;

static const feature features[] = {
    {"fp-armv8", BASELINE, 0}, {"neon", BASELINE, 0},  {"aes", HWCAP, 3},       {"sha2", HWCAP, 6},
    {"crc", HWCAP, 7},         {"lse", HWCAP, 8},      {"fullfp16", HWCAP, 10}, {"rdm", HWCAP, 12},
    {"dotprod", HWCAP, 20},    {"fp16fml", HWCAP, 23}, {"sve", HWCAP, 22},      {"sve2", HWCAP2, 1},
    {"i8mm", HWCAP2, 13},      {"bf16", HWCAP2, 14},
};

static bool is_offered(const feature *wanted) {
  if (wanted->word == BASELINE) return true;
#if defined(__linux__)
  unsigned long capabilities = getauxval(wanted->word == HWCAP ? AT_HWCAP : AT_HWCAP2);
  return capabilities >> wanted->bit & 1;
#else
  return false;
#endif
}

#else
#error "cpu.c knows x86-64 and AArch64: add this architecture's features"
#endif

static const size_t feature_count = sizeof features / sizeof features[0];

const char *cpu_feature_name(size_t index) { return index < feature_count ? features[index].name : NULL; }

bool cpu_has_feature(const char *name) {
  for (size_t i = 0; i < feature_count; i++) {
    if (strcmp(features[i].name, name) == 0) return is_offered(&features[i]);
  }
  return false;
}

uint32_t cpu_missing_features(const char *const *names, char *list, size_t list_bytes) {
  uint32_t missing = 0;
  size_t used = 0;
  if (list_bytes > 0) list[0] = '\0';
  for (; *names != NULL; names++) {
    if (cpu_has_feature(*names)) continue;
    int written = snprintf(list + used, list_bytes - used, "%s%s", missing == 0 ? "" : ", ", *names);
    used = used + (size_t)written < list_bytes ? used + (size_t)written : list_bytes;
    missing++;
  }
  return missing;
}

uint32_t cpu_count(void) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return (uint32_t)CPU_COUNT(&allowed);
#endif
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (uint32_t)online : 1;
}
