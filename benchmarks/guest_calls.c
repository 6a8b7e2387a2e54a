/* The guest of the vetting benchmarks: makes N calls of a kind and prints microseconds per call.
 *
 *   guest_calls exec N          vfork, exec of /bin/true, wait
 *   guest_calls connect N PORT  connect to a server of its own, and close
 *   guest_calls stream N PORT   four bytes to and fro on a TCP connection, by sendmsg and recvmsg
 *   guest_calls sendmsg N PORT  a datagram to and fro, each by sendmsg with an address
 *   guest_calls open N PORT K   open and close, while K children wait in connect to a server that is another one
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in place;

static double now_us(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void fail(const char *what)
{
	perror(what);
	exit(3);
}

static void execute(void)
{
	char *const words[] = {"true", NULL};
	int status;
	pid_t child = vfork();
	if (child == 0) {
		execv("/bin/true", words);
		_exit(9);
	}
	if (waitpid(child, &status, 0) != child || status)
		fail("/bin/true");
}

static int knock(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return connect(fd, (struct sockaddr *)&place, sizeof place) ? -1 : fd;
}

static void visit(void)
{
	int fd = knock();
	if (fd < 0)
		fail("connect");
	close(fd);
}

static int bound(int kind)
{
	int one = 1, fd = socket(AF_INET, kind, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&place, sizeof place))
		fail("bind");
	return fd;
}

static void serve(void)
{
	int listener = bound(SOCK_STREAM);
	if (listen(listener, 512))
		fail("listen");
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			close(accept(listener, NULL, NULL));
	}
	close(listener);
}

static int one, other;

static void say(int fd, struct sockaddr_in *to)
{
	struct iovec span = {"ping", 4};
	struct msghdr message = {.msg_name = to, .msg_namelen = sizeof *to, .msg_iov = &span, .msg_iovlen = 1};
	if (sendmsg(fd, &message, 0) != 4)
		fail("sendmsg");
}

static void ping(void)
{
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	char room[8];
	say(one, &place);
	if (recvfrom(other, room, sizeof room, 0, (struct sockaddr *)&from, &length) != 4)
		fail("recvfrom");
	say(other, &from);
	if (recv(one, room, sizeof room, 0) != 4)
		fail("recv");
}

static void say_on(int fd)
{
	struct iovec span = {"ping", 4};
	struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1};
	if (sendmsg(fd, &message, 0) != 4)
		fail("sendmsg");
}

static void hear_on(int fd)
{
	char room[4];
	struct iovec span = {room, 4};
	struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1};
	if (recvmsg(fd, &message, MSG_WAITALL) != 4)
		fail("recvmsg");
}

static void ping_on_a_stream(void)
{
	say_on(one);
	hear_on(other);
	say_on(other);
	hear_on(one);
}

static void open_stream(void)
{
	int listener = bound(SOCK_STREAM);
	if (listen(listener, 1))
		fail("listen");
	one = knock();
	other = accept(listener, NULL, NULL);
	if (one < 0 || other < 0)
		fail("connect");
}

static void touch(void)
{
	close(open("/dev/null", O_RDONLY));
}

int main(int count, char **words)
{
	long calls = count > 2 ? atol(words[2]) : 0;
	int waiting = count > 4 ? atoi(words[4]) : 0;
	void (*call)(void) = execute;

	if (calls <= 0)
		return 2;
	place.sin_family = AF_INET;
	place.sin_port = htons(count > 3 ? atoi(words[3]) : 0);
	place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!strcmp(words[1], "connect")) {
		call = visit;
		serve();
	} else if (!strcmp(words[1], "stream")) {
		call = ping_on_a_stream;
		open_stream();
	} else if (!strcmp(words[1], "sendmsg")) {
		call = ping;
		other = bound(SOCK_DGRAM);
		one = socket(AF_INET, SOCK_DGRAM, 0);
	} else if (!strcmp(words[1], "open")) {
		call = touch;
		while (waiting--)
			if (fork() == 0) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				knock();
				pause();
			}
		usleep(300000);
	}
	for (long i = 0; i < calls / 10 + 1; i++)
		call();
	double start = now_us();
	for (long i = 0; i < calls; i++)
		call();
	printf("%.3f\n", (now_us() - start) / (double)calls);
	return 0;
}
