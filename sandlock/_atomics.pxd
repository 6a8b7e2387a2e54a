# Memory that several tasks, or processes, look at and change without locks.

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifndef SANDLOCK_ATOMICS
    #define SANDLOCK_ATOMICS
    #define sandlock_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define sandlock_store(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    #define sandlock_add(at, value) __atomic_add_fetch(at, value, __ATOMIC_ACQ_REL)
    #define sandlock_swap_if(at, old, new) __sync_bool_compare_and_swap(at, old, new)
    #endif
    """
    uint64_t load_word "sandlock_load"(const uint64_t *at) noexcept
    void store_word "sandlock_store"(uint64_t *at, uint64_t value) noexcept
    int swap_word_if "sandlock_swap_if"(uint64_t *at, uint64_t old, uint64_t new) noexcept
    int load_int "sandlock_load"(const int *at) noexcept
    void store_int "sandlock_store"(int *at, int value) noexcept
    int add_int "sandlock_add"(int *at, int value) noexcept
    int swap_int_if "sandlock_swap_if"(int *at, int old, int new) noexcept
    void fence "__sync_synchronize"() noexcept
