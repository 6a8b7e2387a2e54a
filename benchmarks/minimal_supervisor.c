/* The least that answers a seccomp notification: the yardstick of the notification benchmark.
 *
 *   minimal_supervisor VALUE PROGRAM [ARGUMENT...]
 *
 * Runs PROGRAM with a filter that traps getppid only, and answers each getppid with VALUE. Two system
 * calls per notification (RECV, SEND), the thread blocked in RECV, and the synchronous wake-up on.
 * Exits as PROGRAM does, 125 if the set-up failed.
 */
#define _GNU_SOURCE
#include <errno.h>
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

static int fail(const char *step)
{
	fprintf(stderr, "minimal_supervisor: %s: %s\n", step, strerror(errno));
	return 125;
}

static int install_filter(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof program / sizeof *program, program };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &filter);
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

/* Answers until the last task of the filter is gone. Returns 0 or -1 with errno. */
static int answer(int listener, long long value)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;

	for (;;) {
		memset(&request, 0, sizeof request);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? 0 : -1;
		}
		response = (struct seccomp_notif_resp){ .id = request.id, .val = value };
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
			return -1;
	}
}

int main(int argc, char **argv)
{
	int told[2], go[2], number, listener, status;

	if (argc < 3)
		return 2;
	if (pipe(told) || pipe(go))
		return fail("pipe");
	pid_t guest = fork();
	if (guest < 0)
		return fail("fork");
	if (guest == 0)
		_exit(become_guest(told[1], go[0], argv + 2));
	close(told[1]);
	if (read(told[0], &number, sizeof number) != sizeof number)
		return 125; /* the guest has said why */
	int pidfd = (int)syscall(SYS_pidfd_open, guest, 0);
	listener = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	if (listener < 0)
		return fail("pidfd_getfd");
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP))
		return fail("SYNC_WAKE_UP (Linux 6.6)");
	if (write(go[1], "g", 1) != 1)
		return fail("write");
	if (answer(listener, atoll(argv[1])))
		return fail("notification");
	if (waitpid(guest, &status, 0) != guest)
		return fail("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
