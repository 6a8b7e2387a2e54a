#include "attacks.h"
#include <stdarg.h>

const char *word(int error)
{
    static char other[24];
    const char *name = error ? strerrorname_np(error) : "0";
    if (name)
        return name;
    snprintf(other, sizeof other, "errno%d", error);
    return other;
}

void say(const char *format, ...)
{
    char line[4096];
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

void linger(void)
{
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
}

int children_status(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return status;
}

static int list_all(char **argument);

static const struct attack own_attacks[] = {{"list", 0, list_all}, {0}};
static const struct attack *const groups[] = {own_attacks,    file_attacks,    exec_attacks,
                                              network_attacks, process_attacks, memory_attacks,
                                              syscall_attacks, privilege_attacks};

static int list_all(char **argument)
{
    (void)argument;
    for (size_t group = 0; group < sizeof groups / sizeof *groups; group++)
        for (const struct attack *attack = groups[group]; attack->name; attack++)
            say("%s", attack->name);
    return 0;
}

int main(int count, char **argument)
{
    if (count < 2)
        return 2;
    for (size_t group = 0; group < sizeof groups / sizeof *groups; group++)
        for (const struct attack *attack = groups[group]; attack->name; attack++)
            if (!strcmp(attack->name, argument[1])) {
                if (count - 2 < attack->arguments)
                    return 2;
                say("%s", word(attack->function(argument + 2)));
                return 0;
            }
    return 2;
}
