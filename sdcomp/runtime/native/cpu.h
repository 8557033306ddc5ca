/* cpu.h: what the CPU and the operating system offer, in LLVM's names of features. */
#ifndef SDCOMP_CPU_H
#define SDCOMP_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether kernels that use the feature can run here. False for a name that is not in the table: an artifact
 * that needs something unheard of is refused rather than tried. */
bool cpu_has_feature(const char *name);

/* The table's names in order, NULL behind the last. */
const char *cpu_feature_name(size_t index);

/* Writes the features of a NULL-ended list that are missing, separated by ", ", and returns their number. */
uint32_t cpu_missing_features(const char *const *names, char *list, size_t list_bytes);

/* CPUs that this process may use, at least 1. */
uint32_t cpu_count(void);

#endif
