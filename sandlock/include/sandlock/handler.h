/* Native handlers: a C function that answers a system call of a sandboxed program.
 *
 *     #include <sandlock/handler.h>
 *
 *     struct sandlock_action on_uname(const struct sandlock_call *call, void *context)
 *     {
 *         return sandlock_errno(EPERM);
 *     }
 *
 * Compile it into a library with -I of sandlock.include_dir(), and give the function's address to
 * sandlock.NativeHandler. It runs in the supervisor of each run, one call of a run at a time, while every other call of
 * that run waits: it has to be quick, must not block, and must never call Python. It is confined as the run is, so what
 * it needs is opened beforehand. Its stack is small: use no more than 64 KiB. Runs of one sandbox may call it at once,
 * from several threads.
 *
 * What memory says may change at the next moment. After a handler has read memory the call cannot go on
 * (SANDLOCK_CONTINUE is a denial then), for the kernel would read that memory again. An observer (NativeHandler with
 * observes=True) may read and has to answer SANDLOCK_CONTINUE; it decides nothing, and writes nothing.
 *
 * Whatever is no action is a denial. */
#ifndef SANDLOCK_HANDLER_H
#define SANDLOCK_HANDLER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SANDLOCK_HANDLER_ABI 1
/* It changes when a handler that is compiled already would go wrong. `struct sandlock_call` may grow at its end. */

enum {
    SANDLOCK_CONTINUE = 1,  /* the kernel makes the call */
    SANDLOCK_ERRNO = 2,     /* the call fails with the errno `value`, 1 to 4095 */
    SANDLOCK_VALUE = 3,     /* the call returns `value`, no errno (-4095 to -1) */
    SANDLOCK_INJECT = 4,    /* the program gets a copy of our descriptor `value`, and its number as the result */
    SANDLOCK_HOLD = 5,      /* the caller waits until the run ends */
    SANDLOCK_KILL_TASK = 6, /* the caller's process is killed */
    SANDLOCK_KILL_TREE = 7  /* the run ends */
};

enum {
    SANDLOCK_INJECT_CLOEXEC = 1 /* flag: the program's copy is closed by its next exec */
};

enum {
    SANDLOCK_MAX_ACCESS = 65536,    /* bytes of one access */
    SANDLOCK_MAX_MEMORY = 262144,   /* bytes of all accesses of one call */
    SANDLOCK_MAX_ACCESSES = 64      /* accesses of one call */
};

struct sandlock_action {
    uint32_t kind;
    uint32_t flags;
    int64_t value;
};

/* A call that waits for its answer. Valid until the handler returns. */
struct sandlock_call {
    uint32_t abi;  /* SANDLOCK_HANDLER_ABI of the supervisor */
    uint32_t arch; /* AUDIT_ARCH_* of <linux/audit.h> */
    int32_t number;
    int32_t tid; /* the thread that calls */
    uint64_t args[6];

    /* The process of that thread; -errno when it is gone. Looked up when asked for: that costs as much as an answer. */
    int32_t (*tgid)(const struct sandlock_call *call);

    /* Memory of the caller. These return the number of bytes, or -errno: -EFAULT for a bad address, -EMSGSIZE over
     * SANDLOCK_MAX_ACCESS, -EDQUOT when the call's share is used up, -ESRCH when the caller waits no more; what was read
     * counts for nothing then. */
    int64_t (*read)(const struct sandlock_call *call, uint64_t address, void *into, uint64_t length);
    /* A string and its NUL, into `size` bytes. Returns the length without the NUL; -ENAMETOOLONG if it does not fit. */
    int64_t (*read_string)(const struct sandlock_call *call, uint64_t address, char *into, uint64_t size);
    /* After -EFAULT a part may be written. -EPERM for an observer. */
    int64_t (*write)(const struct sandlock_call *call, uint64_t address, const void *from, uint64_t length);
};

typedef struct sandlock_action sandlock_handler(const struct sandlock_call *call, void *context);

static inline struct sandlock_action sandlock_action_of(uint32_t kind, int64_t value)
{
    struct sandlock_action action;
    action.kind = kind;
    action.flags = 0;
    action.value = value;
    return action;
}

static inline struct sandlock_action sandlock_continue(void) { return sandlock_action_of(SANDLOCK_CONTINUE, 0); }
static inline struct sandlock_action sandlock_errno(int error) { return sandlock_action_of(SANDLOCK_ERRNO, error); }
static inline struct sandlock_action sandlock_value(int64_t value) { return sandlock_action_of(SANDLOCK_VALUE, value); }
static inline struct sandlock_action sandlock_inject(int fd) { return sandlock_action_of(SANDLOCK_INJECT, fd); }
static inline struct sandlock_action sandlock_hold(void) { return sandlock_action_of(SANDLOCK_HOLD, 0); }
static inline struct sandlock_action sandlock_kill_task(void) { return sandlock_action_of(SANDLOCK_KILL_TASK, 0); }
static inline struct sandlock_action sandlock_kill_tree(void) { return sandlock_action_of(SANDLOCK_KILL_TREE, 0); }

#ifdef __cplusplus
}
#endif

#endif
