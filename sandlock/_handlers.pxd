# The users' handlers of one run: native functions, called by the fast lane, and those in Python, which it asks.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from sandlock._actions cimport Action, Share
from sandlock._handling cimport GivenAction
from sandlock._linux cimport Notification
from sandlock._run cimport Rule
from sandlock._slots cimport Table
from sandlock._workers cimport Crew

cdef enum:
    MAX_HANDLERS = 128

cdef extern from "sandlock/handler.h" nogil:
    ctypedef struct PublicCall "struct sandlock_call":
        uint32_t abi
        uint32_t arch
        int32_t number
        int32_t tid
        uint64_t args[6]
        int32_t (*tgid)(const PublicCall *call) noexcept nogil
        int64_t (*read)(const PublicCall *call, uint64_t address, void *into, uint64_t length) noexcept nogil
        int64_t (*read_string)(const PublicCall *call, uint64_t address, char *into, uint64_t size) noexcept nogil
        int64_t (*write)(const PublicCall *call, uint64_t address, const void *source, uint64_t length) noexcept nogil
    const uint32_t SANDLOCK_HANDLER_ABI

ctypedef GivenAction (*HandlerFunction)(const PublicCall *call, void *context) noexcept nogil

cdef struct HandlerEntry:
    HandlerFunction function    # NULL: the handler is Python's
    void *context
    int observes

# What a native handler is given, and behind it what the accessors need. One per run, for the lane has one call at a
# time; `id` is 0 when there is none, so a handler that keeps the pointer reads nothing later.
cdef struct NativeCall:
    PublicCall public
    int listener
    uint64_t id
    int observes
    int has_read
    Share share

cdef struct Handlers:
    int count
    HandlerEntry entries[MAX_HANDLERS]
    NativeCall call

cdef class HandlerSet:
    cdef Handlers c
    cdef Table *table
    cdef list _kept
    cdef void attach(self, Table *table) noexcept

cdef Action handle(Handlers *handlers, Crew *crew, const Rule *rule, const Notification *notification) noexcept nogil
