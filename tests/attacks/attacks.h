/* The attacks that the tests of the confinement run, with and without the sandbox.
 *
 * One static program, `attack NAME ARGUMENT...`. Each attack is a function that returns 0 when everything that it
 * tried was accepted, or the errno of the first step that was not; `main` prints that as a word. What an attack says
 * is a hint for people: tests judge by what they see from outside. */
#ifndef ATTACKS_H
#define ATTACKS_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct attack {
    const char *name;
    int arguments; /* at least */
    int (*function)(char **argument);
};

extern const struct attack file_attacks[], exec_attacks[], network_attacks[], process_attacks[], memory_attacks[],
    syscall_attacks[], privilege_attacks[];

/* Leaves the attack with errno when a step fails. */
#define TRY(expression)                                                                                              \
    ({                                                                                                               \
        long result_ = (long)(expression);                                                                           \
        if (result_ < 0)                                                                                             \
            return errno;                                                                                            \
        result_;                                                                                                     \
    })

/* Many attacks come in several ways, named by a first argument that is called `how`. */
#define IS(text) (!strcmp(how, text))

/* What everybody who gets through leaves behind. */
#define MARK "OWNED"

/* Numbers that older headers lack. From 424 on, all architectures share them. */
#define NR_pidfd_send_signal 424
#define NR_io_uring_setup 425
#define NR_io_uring_enter 426
#define NR_io_uring_register 427
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_pidfd_open 434
#define NR_clone3 435
#define NR_openat2 437
#define NR_pidfd_getfd 438
#define NR_process_madvise 440
#define NR_mount_setattr 442
#define NR_landlock_create_ruleset 444
#define NR_landlock_restrict_self 446

const char *word(int error);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Waits until somebody closes our stdin, so that others can look at us. */
void linger(void);
int children_status(pid_t child);

#endif
