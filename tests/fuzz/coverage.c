/* Gives gcc's coverage (-fsanitize-coverage=trace-pc: one call per basic block) to libFuzzer as the 8-bit counters
 * that it reads. Linked into the fuzzed extension; compiled without coverage itself. */
#include <stdint.h>

#define COUNTERS (1u << 14)

extern void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);

static uint8_t counters[COUNTERS];

__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc(void)
{
    /* Blocks are a few bytes apart, and the distance to our own data does not depend on where we are loaded. */
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)counters;
    counters[((place * 0x9E3779B97F4A7C15u) >> 32) % COUNTERS]++;
}

__attribute__((constructor)) static void announce(void)
{
    __sanitizer_cov_8bit_counters_init(counters, counters + COUNTERS);
}
