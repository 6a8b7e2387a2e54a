/* What the two supervisors of the benchmarks have in common: a guest that installs a filter, and its listener.
 * To be included where SUPERVISOR is the program's name, and `install_filter` returns a listener or -1 with errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* Linux 5.19 */
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

static int install_filter(void);

static int fail(const char *step)
{
	fprintf(stderr, SUPERVISOR ": %s: %s\n", step, strerror(errno));
	return 125;
}

static int install(const struct sock_fprog *filter)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, filter);
}

/* The guest's side: tell the listener's number, wait until the supervisor has its copy, then exec. */
static int become_guest(int tell, int wait, char **argv)
{
	char go;
	int listener = install_filter();

	if (listener < 0)
		return fail("seccomp");
	if (write(tell, &listener, sizeof listener) != sizeof listener || read(wait, &go, 1) != 1)
		return fail("handshake");
	execv(argv[0], argv);
	return fail("execv");
}

/* Starts PROGRAM and fetches its listener. Returns 0, or the status to exit with. */
static int start_guest(char **argv, pid_t *guest, int *listener)
{
	int told[2], go[2], number;

	if (pipe2(told, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		return fail("pipe");
	*guest = fork();
	if (*guest < 0)
		return fail("fork");
	if (*guest == 0)
		_exit(become_guest(told[1], go[0], argv));
	close(told[1]);
	if (read(told[0], &number, sizeof number) != sizeof number)
		return 125; /* the guest has said why */
	int pidfd = (int)syscall(SYS_pidfd_open, *guest, 0);
	*listener = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	if (*listener < 0)
		return fail("pidfd_getfd");
	if (ioctl(*listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP))
		return fail("SYNC_WAKE_UP (Linux 6.6)");
	if (write(go[1], "g", 1) != 1)
		return fail("write");
	return 0;
}

/* The guest's end. Returns the status to exit with. */
static int wait_for_guest(pid_t guest)
{
	int status;

	if (waitpid(guest, &status, 0) != guest)
		return fail("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
