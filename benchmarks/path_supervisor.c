/* The least that makes path calls on a caller's behalf: the yardstick of the path benchmarks.
 *
 *   path_supervisor continue|behalf|pinned|opens PROGRAM [ARGUMENT...]
 *
 * Runs PROGRAM with a filter that traps the calls of `guest_paths`; `opens`: open and openat only. `continue` lets the
 * kernel make each of them. The others read the path from the caller's memory, make the call, and answer: an open with
 * a descriptor that is put into the caller, stat and readlink with bytes that are written to its memory. One thread,
 * synchronous wake-up; nothing is judged, and nothing is checked that a real supervisor has to check. `pinned` does what
 * has to be done where objects are judged, for paths that are absolute: it pins the object first and looks at it, acts by
 * the pin, and asks whether the caller is still there before it writes to its memory.
 * Exits as PROGRAM does, 125 if the set-up failed or if nothing was trapped.
 */
#define SUPERVISOR "path_supervisor"
#include "supervising.h"

#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { PAGE = 4096 };

/* Opens first. */
static const int trapped[] = {
#ifdef SYS_open
	SYS_openat, SYS_open, SYS_newfstatat, SYS_readlinkat, SYS_stat, SYS_lstat, SYS_readlink,
#else
	SYS_openat, SYS_newfstatat, SYS_readlinkat,
#endif
};
enum { ALL = sizeof trapped / sizeof *trapped };
#ifdef SYS_open
enum { OPENS = 2 };
#else
enum { OPENS = 1 };
#endif
static int count = ALL, pins;

static int install_filter(void)
{
	struct sock_filter program[ALL + 6] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_filter *next = program + 4;
	struct sock_fprog filter = { (unsigned short)(count + 6), program };

	for (int i = 0; i < count; i++)
		*next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, trapped[i], (unsigned char)(count - i), 0);
	*next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	*next = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	return install(&filter);
}

/* A path of the caller: up to its page's end, and on if it does not end there. Returns 0 or -errno. */
static int read_path(pid_t tid, unsigned long address, char path[PATH_MAX])
{
	for (size_t have = 0; have < PATH_MAX;) {
		size_t room = PAGE - (address + have) % PAGE;
		if (room > PATH_MAX - have)
			room = PATH_MAX - have;
		struct iovec to = { path + have, room }, from = { (void *)(address + have), room };
		ssize_t got = process_vm_readv(tid, &to, 1, &from, 1, 0);
		if (got <= 0)
			return -EFAULT;
		if (memchr(path + have, 0, (size_t)got))
			return 0;
		have += (size_t)got;
	}
	return -ENAMETOOLONG;
}

static long give(pid_t tid, unsigned long address, void *bytes, size_t length, long value)
{
	struct iovec from = { bytes, length }, to = { (void *)address, length };
	return process_vm_writev(tid, &from, 1, &to, 1, 0) == (ssize_t)length ? value : -EFAULT;
}

/* The descriptor goes into the caller as the answer of its open, in one step. Returns 0 if that has answered. */
static long give_descriptor(int listener, __u64 id, long fd, int flags)
{
	struct seccomp_notif_addfd order = {
		.id = id,
		.flags = SECCOMP_ADDFD_FLAG_SEND,
		.srcfd = (__u32)fd,
		.newfd_flags = flags & O_CLOEXEC,
	};
	long result = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &order) < 0 ? -errno : 0;

	close((int)fd);
	return result;
}

/* Where a relative path begins: the caller's directory. AT_FDCWD for an absolute one. Returns -errno on failure. */
static int open_base(pid_t tid, int directory, const char *path)
{
	char name[64];
	int base;

	if (*path == '/')
		return AT_FDCWD;
	if (directory == AT_FDCWD)
		snprintf(name, sizeof name, "/proc/%d/cwd", tid);
	else
		snprintf(name, sizeof name, "/proc/%d/fd/%d", tid, directory);
	base = open(name, O_PATH | O_CLOEXEC);
	return base < 0 ? -errno : base;
}

static long act_at(int listener, const struct seccomp_notif *request, int base, const char *path, const __u64 *at)
{
	pid_t tid = (pid_t)request->pid;
	char target[PATH_MAX];
	struct stat status;
	long result;
#ifdef SYS_stat
	int flags;
#endif

	switch (request->data.nr) {
#ifdef SYS_open
	case SYS_open:
#endif
	case SYS_openat:
		result = syscall(SYS_openat, base, path, (int)at[1], (mode_t)at[2]);
		return result < 0 ? -errno : give_descriptor(listener, request->id, result, (int)at[1]);
#ifdef SYS_stat
	case SYS_stat:
	case SYS_lstat:
		flags = request->data.nr == SYS_lstat ? AT_SYMLINK_NOFOLLOW : 0;
		result = syscall(SYS_newfstatat, base, path, &status, flags);
		return result < 0 ? -errno : give(tid, at[1], &status, sizeof status, 0);
#endif
	case SYS_newfstatat:
		result = syscall(SYS_newfstatat, base, path, &status, (int)at[2]);
		return result < 0 ? -errno : give(tid, at[1], &status, sizeof status, 0);
	default:
		result = syscall(SYS_readlinkat, base, path, target, at[2] < PATH_MAX ? at[2] : PATH_MAX);
		return result < 0 ? -errno : give(tid, at[1], target, (size_t)result, result);
	}
}

/* The same by a pin. */
static long act_pinned(int listener, const struct seccomp_notif *request, const char *path, const __u64 *at)
{
	int number = request->data.nr, links = number == SYS_readlinkat, opens = number == SYS_openat;
	pid_t tid = (pid_t)request->pid;
	char target[PATH_MAX], name[64];
	struct stat status;
	struct statx facts;
	long result, pin;

#ifdef SYS_open
	links |= number == SYS_readlink || number == SYS_lstat;
	opens |= number == SYS_open;
#endif
	pin = syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC | (links ? O_NOFOLLOW : 0));
	if (pin < 0)
		return -errno;
	result = syscall(SYS_statx, pin, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &facts) ? -errno : 0;
	if (result == 0 && opens) {
		snprintf(name, sizeof name, "/proc/self/fd/%ld", pin);
		result = syscall(SYS_openat, AT_FDCWD, name, (int)at[1] | O_NONBLOCK | O_NOCTTY);
		if (result >= 0) {
			fcntl((int)result, F_SETFL, (int)at[1]);
			result = give_descriptor(listener, request->id, result, (int)at[1]);
		} else {
			result = -errno;
		}
	} else if (result == 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id)) {
		result = -errno;
	} else if (result == 0 && S_ISLNK(facts.stx_mode)) {
		result = syscall(SYS_readlinkat, pin, "", target, at[2] < PATH_MAX ? at[2] : PATH_MAX);
		result = result < 0 ? -errno : give(tid, at[1], target, (size_t)result, result);
	} else if (result == 0) {
		memset(&status, 0, sizeof status);
		status.st_mode = facts.stx_mode;
		status.st_ino = facts.stx_ino;
		status.st_size = (off_t)facts.stx_size;
		result = give(tid, at[1], &status, sizeof status, 0);
	}
	close((int)pin);
	return result;
}

static int is_open(int number)
{
	for (int i = 0; i < OPENS; i++)
		if (trapped[i] == number)
			return 1;
	return 0;
}

/* Makes the call. Returns 1 if it is answered already, else 0 and what to answer. */
static int act(int listener, const struct seccomp_notif *request, long *answer)
{
	const __u64 *at = request->data.args;
	char path[PATH_MAX];
	int directory = AT_FDCWD, base;

	switch (request->data.nr) {
	case SYS_openat:
	case SYS_newfstatat:
	case SYS_readlinkat:
		directory = (int)*at++;
	}
	*answer = read_path((pid_t)request->pid, at[0], path);
	if (*answer < 0)
		return 0;
	if (pins) {
		*answer = act_pinned(listener, request, path, at);
		return is_open(request->data.nr) && *answer == 0;
	}
	base = open_base((pid_t)request->pid, directory, path);
	*answer = base < 0 && base != AT_FDCWD ? base : act_at(listener, request, base, path, at);
	if (base >= 0)
		close(base);
	return is_open(request->data.nr) && *answer == 0;
}

/* Answers until the last task of the filter is gone. Returns the number of answers, or -1 with errno. */
static long serve(int listener, int on_behalf)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;
	long value;

	for (long count = 0;; count++) {
		memset(&request, 0, sizeof request);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? count : -1;
		}
		response = (struct seccomp_notif_resp){ .id = request.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
		if (on_behalf) {
			response.flags = 0;
			if (act(listener, &request, &value))
				continue;
			response.error = value < 0 ? (__s32)value : 0;
			response.val = value < 0 ? 0 : value;
		}
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
	count = strcmp(argv[1], "opens") ? ALL : OPENS;
	pins = !strcmp(argv[1], "pinned");
	failed = start_guest(argv + 2, &guest, &listener);
	if (failed)
		return failed;
	long served = serve(listener, !!strcmp(argv[1], "continue"));
	if (served < 0)
		return fail("notification");
	if (served < 100)
		return fail("nothing was trapped");
	return wait_for_guest(guest);
}
