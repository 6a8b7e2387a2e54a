/* The least that judges execs, connections and datagrams soundly: the yardstick of the vetting benchmarks.
 *
 *   vetting_supervisor exec|connect|sendmsg PROGRAM [ARGUMENT...]
 *   vetting_supervisor guest CALL TELL WAIT PROGRAM [ARGUMENT...]
 *
 * Runs PROGRAM with a filter that traps that one call. exec: the task is seized, its exec goes on, and is let go at the
 * exec stop, where a real supervisor compares what was executed with what was approved. connect and sendmsg: made on
 * the caller's behalf, from a copy of the arguments, on a duplicate of its socket. One thread, synchronous wake-up;
 * nothing is judged, and nothing is checked that a real supervisor has to check. `guest` only installs the filter, for
 * a supervisor in Python (vetting_supervisor.py): the listener's number is written to TELL, and WAIT is read.
 * Exits as PROGRAM does, 125 if the set-up failed or if nothing was trapped.
 */
#define SUPERVISOR "vetting_supervisor"
#include "supervising.h"

#include <netinet/in.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>

static int trapped;

static int install_filter(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)trapped, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof program / sizeof *program, program };

	return install(&filter);
}

static int copy(pid_t tid, void *to, unsigned long from, size_t length)
{
	struct iovec here = { to, length }, there = { (void *)from, length };

	return process_vm_readv(tid, &here, 1, &there, 1, 0) == (ssize_t)length ? 0 : -EFAULT;
}

/* A duplicate of the caller's descriptor, or -errno. */
static int take(pid_t tid, int number)
{
	int pidfd = (int)syscall(SYS_pidfd_open, tid, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

	if (fd < 0)
		fd = -errno;
	close(pidfd);
	return fd;
}

static long make_connect(pid_t tid, const __u64 *arguments)
{
	struct sockaddr_storage address;
	socklen_t length = (socklen_t)arguments[2];
	int fd;
	long result;

	if (length > sizeof address || copy(tid, &address, arguments[1], length))
		return -EFAULT;
	fd = take(tid, (int)arguments[0]);
	if (fd < 0)
		return fd;
	result = connect(fd, (struct sockaddr *)&address, length) ? -errno : 0;
	close(fd);
	return result;
}

static long make_sendmsg(pid_t tid, const __u64 *arguments)
{
	struct sockaddr_storage address;
	struct msghdr message;
	struct iovec span;
	char data[4096];
	int fd;
	long result;

	if (copy(tid, &message, arguments[1], sizeof message) || message.msg_iovlen != 1 ||
	    message.msg_namelen > sizeof address || copy(tid, &address, (unsigned long)message.msg_name, message.msg_namelen) ||
	    copy(tid, &span, (unsigned long)message.msg_iov, sizeof span) || span.iov_len > sizeof data ||
	    copy(tid, data, (unsigned long)span.iov_base, span.iov_len))
		return -EFAULT;
	span.iov_base = data;
	message.msg_name = &address;
	message.msg_iov = &span;
	message.msg_control = NULL;
	message.msg_controllen = 0;
	fd = take(tid, (int)arguments[0]);
	if (fd < 0)
		return fd;
	result = sendmsg(fd, &message, (int)arguments[2]);
	result = result < 0 ? -errno : result;
	close(fd);
	return result;
}

/* Answers until the last task of the filter is gone. Returns the number of answers, or -1 with errno. */
static long serve(int listener)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;
	int status;
	pid_t tid;
	long value;

	for (long count = 0;; count++) {
		memset(&request, 0, sizeof request);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? count : -1;
		}
		tid = (pid_t)request.pid;
		response = (struct seccomp_notif_resp){ .id = request.id };
		if (trapped == SYS_execve) {
			response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
			if (count && ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACEEXEC)) /* the first one is PROGRAM itself */
				return -1;
		} else {
			value = trapped == SYS_connect ? make_connect(tid, request.data.args) :
							 make_sendmsg(tid, request.data.args);
			response.error = value < 0 ? (__s32)value : 0;
			response.val = value < 0 ? 0 : value;
		}
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
			return -1;
		if (trapped == SYS_execve && count &&
		    (waitpid(tid, &status, __WALL) != tid || ptrace(PTRACE_DETACH, tid, 0, 0)))
			return -1;
	}
}

static int number_of(const char *call)
{
	return !strcmp(call, "exec") ? SYS_execve : !strcmp(call, "connect") ? SYS_connect : SYS_sendmsg;
}

int main(int argc, char **argv)
{
	int listener = -1, failed;
	pid_t guest = -1;

	if (argc > 5 && !strcmp(argv[1], "guest")) {
		trapped = number_of(argv[2]);
		return become_guest(atoi(argv[3]), atoi(argv[4]), argv + 5);
	}
	if (argc < 3)
		return 2;
	trapped = number_of(argv[1]);
	failed = start_guest(argv + 2, &guest, &listener);
	if (failed)
		return failed;
	long served = serve(listener);
	if (served < 0)
		return fail("notification");
	if (served < 100)
		return fail("nothing was trapped");
	return wait_for_guest(guest);
}
