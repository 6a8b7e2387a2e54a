/* The least that answers a seccomp notification: the yardstick of the notification benchmark.
 *
 *   minimal_supervisor VALUE PROGRAM [ARGUMENT...]
 *
 * Runs PROGRAM with a filter that traps getppid only, and answers each getppid with VALUE. Two system
 * calls per notification (RECV, SEND), the thread blocked in RECV, and the synchronous wake-up on.
 * Exits as PROGRAM does, 125 if the set-up failed.
 */
#define SUPERVISOR "minimal_supervisor"
#include "supervising.h"

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

	return install(&filter);
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
	int listener = -1, failed;
	pid_t guest = -1;

	if (argc < 3)
		return 2;
	failed = start_guest(argv + 2, &guest, &listener);
	if (failed)
		return failed;
	if (answer(listener, atoll(argv[1])))
		return fail("notification");
	return wait_for_guest(guest);
}
