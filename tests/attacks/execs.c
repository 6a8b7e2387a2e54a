/* Ways to execute a program that is not granted. */
#include "attacks.h"

extern char **environ;

/* mark PATH: what the forbidden program does; somebody outside looks for the file. */
static int mark(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_CREAT | O_WRONLY, 0644));
    TRY(write(fd, MARK, strlen(MARK)));
    return 0;
}

static int copy_to_memory(const char *path)
{
    char buffer[65536];
    ssize_t length;
    int from = open(path, O_RDONLY), to = (int)syscall(SYS_memfd_create, "copy", 0);
    if (from < 0 || to < 0)
        return -1;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, (size_t)length) != length)
            return -1;
    return length < 0 ? -1 : to;
}

/* execute HOW PROGRAM SPARE ARGUMENT...: the words after SPARE are the program's, argv[0] included */
static int execute(char **argument)
{
    const char *how = argument[0], *program = argument[1], *spare = argument[2];
    char **words = argument + 3, name[PATH_MAX];
    int fd;
    if (IS("execve"))
        execve(program, words, environ);
    else if (IS("execveat"))
        syscall(SYS_execveat, AT_FDCWD, program, words, environ, 0);
    else if (IS("path-descriptor"))
        syscall(SYS_execveat, open(program, O_PATH), "", words, environ, AT_EMPTY_PATH);
    else if (IS("read-descriptor"))
        syscall(SYS_execveat, TRY(open(program, O_RDONLY)), "", words, environ, AT_EMPTY_PATH);
    else if (IS("proc-fd")) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", open(program, O_PATH));
        execve(name, words, environ);
    } else if (IS("proc-root")) {
        snprintf(name, sizeof name, "/proc/self/root%s", program);
        execve(name, words, environ);
    } else if (IS("symlink")) {
        snprintf(name, sizeof name, "%s/link", spare);
        TRY(symlink(program, name));
        execve(name, words, environ);
    } else if (IS("hard-link")) {
        snprintf(name, sizeof name, "%s/hard", spare);
        TRY(link(program, name));
        execve(name, words, environ);
    } else if (IS("rename")) {
        snprintf(name, sizeof name, "%s/moved", spare);
        TRY(rename(program, name));
        execve(name, words, environ);
    } else if (IS("script")) {
        char *script[] = {name, 0};
        snprintf(name, sizeof name, "%s/script", spare);
        fd = (int)TRY(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0755));
        TRY(dprintf(fd, "#!%s %s\n", program, words[1])); /* one word: see mark-here */
        TRY(close(fd));
        execve(name, script, environ);
    } else if (IS("thread")) {
        pid_t child = (pid_t)TRY(vfork());
        if (!child) {
            execve(program, words, environ);
            _exit(errno);
        }
        return WEXITSTATUS(children_status(child));
    } else if (IS("memory")) {
        fd = (int)TRY(copy_to_memory(program));
        syscall(SYS_execveat, fd, "", words, environ, AT_EMPTY_PATH);
    } else
        return EINVAL;
    return errno;
}

/* mark-here SCRIPT: the interpreter of a script in the directory that shall be marked */
static int mark_here(char **argument)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name - 8, "%s", argument[0]);
    strcpy(strrchr(name, '/'), "/marker");
    return mark((char *[]){name, 0});
}

const struct attack exec_attacks[] = {
    {"mark", 1, mark},
    {"mark-here", 1, mark_here},
    {"execute", 4, execute},
    {0},
};
