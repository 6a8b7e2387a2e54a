# Who has written files that are being judged. A file's times do not tell all of it: a write through a shared mapping
# moves them late, and on tmpfs never. But whoever has it open for writing keeps it from being executed (ETXTBSY), so
# between the question and the exec every writer closes it, and that is told, before it can be executed (inotify(7)).

cdef enum:
    MAX_WATCHES = 256

cdef struct Watch:
    int number               # as the kernel calls it; 0: none
    int users                # slots
    int closed               # how often a writer has closed the file

# Watches are added and dropped by the fast lane alone; who wants to know takes the news.
cdef struct Writers:
    int opened               # 1 + the descriptor
    int busy                 # somebody takes the news
    int lost                 # news that nobody has: then everything may have been written
    Watch watches[MAX_WATCHES]

cdef int start_watch(Writers *writers, long descriptor) noexcept nogil
cdef void stop_watch(Writers *writers, int watch) noexcept nogil
cdef int count_writers(Writers *writers, int watch) noexcept nogil
cdef void close_writers(Writers *writers) noexcept nogil
