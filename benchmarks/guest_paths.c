/* The guest of the path benchmarks: makes one call N times and prints microseconds per call.
 *
 *   guest_paths open|stat|readlink|miss N PATH [ABSENT|+PRESENT]
 *
 * open stands for open and close, miss for stat of a new name each time, which leads nowhere. A path ABSENT must not be one that can be opened here, a path PRESENT must; else the
 * program ends with 3, for a benchmark of calls that nobody mediates would look wonderful.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *path;

static double now_us(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void need(int is_good)
{
	if (is_good)
		return;
	perror(path);
	exit(4);
}

static void open_it(void)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	need(fd >= 0);
	close(fd);
}

static void stat_it(void)
{
	struct stat status;
	need(stat(path, &status) == 0 && S_ISREG(status.st_mode));
}

static void read_link(void)
{
	char target[256];
	need(readlink(path, target, sizeof target) > 0);
}

static void miss(void)
{
	static unsigned long number;
	char name[4096];
	struct stat status;

	snprintf(name, sizeof name, "%s-%d-%lu", path, getpid(), number++);
	need(stat(name, &status) < 0);
}

int main(int count, char **words)
{
	if (count < 4)
		return 2;
	long calls = atol(words[2]);
	void (*call)(void) = !strcmp(words[1], "open") ? open_it :
			     !strcmp(words[1], "stat") ? stat_it :
			     !strcmp(words[1], "miss") ? miss :
							 read_link;

	path = words[3];
	if (calls <= 0)
		return 2;
	if (count > 4) {
		int wanted = *words[4] == '+';
		if ((open(words[4] + wanted, O_RDONLY) >= 0) != wanted) {
			fprintf(stderr, "%s: %s\n", words[4], wanted ? "cannot be opened" : "can be opened");
			return 3;
		}
	}
	for (long i = 0; i < calls / 10 + 1; i++)
		call();
	double start = now_us();
	for (long i = 0; i < calls; i++)
		call();
	printf("%.4f\n", (now_us() - start) / (double)calls);
	return 0;
}
