/* A task whose chdir its supervisor turns into another call: redirected SOCKET SCENARIO COUNT A B

   Its filter's listener goes to the socket. Then it changes to A and B in turn, COUNT times, and looks each time whether
   anything but the working directory has changed: registers, signal mask, descriptors, mappings. Exits with 0 if all is
   well, else it says what is not. */

#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

static volatile unsigned handled;
static const char *places[2];
static int count;

static void on_signal(int number) { (void)number; handled++; }

static void fail(const char *what, long value)
{
	fprintf(stderr, "%s: %ld\n", what, value);
	_exit(1);
}

static void trap(int socket, int all)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_chdir, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, all ? SYS_fchdir : -1, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, all ? SYS_close : -1, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, all ? SYS_recvmsg : -1, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, all ? SYS_munmap : -1, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, all ? SYS_mmap : -1, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec vector = {"x", 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	long listener;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			   SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
	if (listener < 0)
		fail("seccomp", errno);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(header) = (int)listener;
	if (sendmsg(socket, &message, 0) != 1)
		fail("sendmsg", errno);
	/* By number, without close(2), which may be trapped. */
	syscall(SYS_close_range, 3, ~0u, 0);
}

/* chdir with values in all registers that no call may change. */
static long change(const char *path)
{
#ifdef __x86_64__
	register uint64_t rdi asm("rdi") = (uint64_t)path, rsi asm("rsi") = 0x1111, rdx asm("rdx") = 0x2222;
	register uint64_t r10 asm("r10") = 0x3333, r8 asm("r8") = 0x4444, r9 asm("r9") = 0x5555, r12 asm("r12") = 0x6666;
	long result = SYS_chdir;

	asm volatile("syscall" : "+a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "+r"(r12)
		     :: "rcx", "r11", "memory");
	if (rdi != (uint64_t)path || rsi != 0x1111 || rdx != 0x2222 || r10 != 0x3333 || r8 != 0x4444 || r9 != 0x5555
	    || r12 != 0x6666)
		fail("a register has changed", 0);
#else
	register uint64_t x0 asm("x0") = (uint64_t)path, x1 asm("x1") = 0x1111, x2 asm("x2") = 0x2222, x3 asm("x3") = 0x3333;
	register uint64_t x4 asm("x4") = 0x4444, x5 asm("x5") = 0x5555, x7 asm("x7") = 0x7777, x8 asm("x8") = SYS_chdir;
	long result;

	asm volatile("svc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x7), "+r"(x8) :: "memory");
	result = (long)x0;
	if (x1 != 0x1111 || x2 != 0x2222 || x3 != 0x3333 || x4 != 0x4444 || x5 != 0x5555 || x7 != 0x7777 || x8 != SYS_chdir)
		fail("a register has changed", 0);
#endif
	return result;
}

static unsigned lines_of(const char *path)
{
	static char text[65536];
	unsigned lines = 0;
	long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), got;

	while ((got = read((int)fd, text, sizeof(text))) > 0)
		for (long i = 0; i < got; i++)
			lines += text[i] == '\n';
	syscall(SYS_close_range, fd, fd, 0);
	return lines;
}

static long change_all(long expected)
{
	sigset_t before, after;
	char cwd[4096];
	unsigned mappings = lines_of("/proc/self/maps");

	sigprocmask(SIG_BLOCK, NULL, &before);
	for (int i = 0; i < count; i++) {
		long result = change(places[i & 1]);

		if (result != expected)
			fail("chdir", result);
		if (expected == 0 && (syscall(SYS_getcwd, cwd, sizeof(cwd)) < 0 || strcmp(cwd, places[i & 1])))
			fail(cwd, i);
	}
	sigprocmask(SIG_BLOCK, NULL, &after);
	for (int number = 1; number < 64; number++)
		if (sigismember(&before, number) != sigismember(&after, number))
			fail("the signal mask has changed", number);
	/* Descriptors: the next one is the first again. Linux keeps neighbours of anonymous memory in one line. */
	if (fcntl(0, F_DUPFD, 3) != 3)
		fail("a descriptor is left", fcntl(0, F_DUPFD, 3));
	syscall(SYS_close_range, 3, ~0u, 0);
	if (lines_of("/proc/self/maps") > mappings)
		fail("a mapping is left", lines_of("/proc/self/maps"));
	return 0;
}

static void *spin(void *unused)
{
	for (;;)
		sched_yield();
	return unused;
}

static void *change_there(void *unused)
{
	for (int i = 0; i < count; i++)
		if (change(places[i & 1]) != 0)
			fail("chdir of a thread", i);
	return unused;
}

/* A vforked child uses our memory, while we wait. */
static void change_in_child(const char *path)
{
	int status;
	pid_t child = vfork();

	if (child == 0)
		_exit(change(path) != 0);
	waitpid(child, &status, 0);
	if (status)
		fail("chdir of a vforked child", status);
}

/* A process that does something to its parent over and over. */
static pid_t pester(int first, int second)
{
	pid_t parent = getpid(), child = fork();
	struct timespec pause = {0, 50000};

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	while (kill(parent, first) == 0) {
		nanosleep(&pause, NULL);
		if (second)
			kill(parent, second);
		nanosleep(&pause, NULL);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	const char *scenario = argc > 2 ? argv[2] : "";
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	pthread_t thread;
	pid_t child = 0;
	int status;
	long expected = argc > 6 ? atol(argv[6]) : 0;

	count = atoi(argv[3]);
	places[0] = argv[4];
	places[1] = argv[5];
	sigaction(SIGUSR1, &action, NULL);
	trap(atoi(argv[1]), !strcmp(scenario, "trapped"));
	if (!strcmp(scenario, "signals"))
		child = pester(SIGUSR1, 0);
	if (!strcmp(scenario, "stops"))
		child = pester(SIGSTOP, SIGCONT);
	if (!strcmp(scenario, "thread"))
		pthread_create(&thread, NULL, spin, NULL);
	if (!strcmp(scenario, "threads")) {
		pthread_create(&thread, NULL, change_there, NULL);
		for (int i = 0; i < count; i++)
			if (change(places[i & 1]) != 0)
				fail("chdir", i);
		pthread_join(thread, NULL);
		count = 0;
	}
	if (!strcmp(scenario, "full")) {
		while (fcntl(0, F_DUPFD, 3) >= 0)
			;
		if (change(places[0]) != expected)
			fail("chdir with a full table", 0);
		syscall(SYS_close_range, 3, ~0u, 0);
		count = 0;
	}
	if (!strcmp(scenario, "vfork")) {
		for (int i = 0; i < count; i++)
			change_in_child(places[i & 1]);
		count = 0;
	}
	if (!strcmp(scenario, "child") && (child = fork())) {
		waitpid(child, &status, 0);
		_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	}
	change_all(expected);
	if (child) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
	if (!strcmp(scenario, "signals") && handled == 0)
		fail("no signal was handled", 0);
	_exit(0);
}
