/* The guest of the notification benchmark: calls getppid N times and prints nanoseconds per call.
 *
 *   guest_getppid CALLS [EXPECTED]
 *
 * EXPECTED is what the supervisor answers. Any other answer ends the program with 3: a benchmark of
 * calls that nobody trapped would look wonderful.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int argc, char **argv)
{
	long calls = argc > 1 ? atol(argv[1]) : 0;
	long expected = argc > 2 ? atol(argv[2]) : getppid();

	if (calls <= 0)
		return 2;
	for (long i = 0; i < calls / 10 + 1; i++) /* warm-up */
		if (syscall(SYS_getppid) != expected)
			return 3;
	double start = now_ns();
	for (long i = 0; i < calls; i++)
		if (syscall(SYS_getppid) != expected)
			return 3;
	printf("%.1f\n", (now_ns() - start) / (double)calls);
	return 0;
}
