/* Processes that are killed while they execute.
 *
 * cut_short COUNT   for each byte on stdin: COUNT children, one after the other, each of which executes this program
 *                   again and again until it is killed, at another moment each time; then a line on stdout
 * cut_short again   such a child
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    char *again[] = {words[0], "again", NULL};
    char byte;
    unsigned seed = 1;
    if (count > 1 && strcmp(words[1], "again") == 0)
        for (;;)
            execv(words[0], again);
    while (read(0, &byte, 1) == 1) {
        for (int left = atoi(words[1]); left > 0; left--) {
            pid_t child = fork();
            if (child == 0)
                for (;;)
                    execv(words[0], again);
            struct timespec pause = {0, 100000 + (seed = seed * 1103515245 + 12345) / 65536 % 30 * 50000};
            nanosleep(&pause, NULL);
            kill(child, SIGKILL);
            while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
                ;
        }
        if (write(1, "\n", 1) != 1)
            return 1;
    }
    return 0;
}
