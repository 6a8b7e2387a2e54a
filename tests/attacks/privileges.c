/* What root, or a privileged program, could do. */
#include "attacks.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* whoami: and waits, so that somebody can look from outside */
static int who_am_i(char **argument)
{
    (void)argument;
    say("uid %d %d gid %d %d securebits %#x", getuid(), geteuid(), getgid(), getegid(),
        (unsigned)prctl(PR_GET_SECUREBITS));
    linger();
    return 0;
}

/* regain: every known way back to a capability */
static int regain(char **argument)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct all[2] = {{~0U, ~0U, ~0U}, {~0U, ~0U, ~0U}};
    (void)argument;
    say("capset %s", syscall(SYS_capset, &header, all) ? word(errno) : "0");
    for (int capability = 0; capability < 41; capability++)
        if (!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))
            say("raised %d", capability);
    say("securebits %s", prctl(PR_SET_SECUREBITS, 0) ? word(errno) : "0");
    say("keepcaps %s", prctl(PR_SET_KEEPCAPS, 1) ? word(errno) : "0");
    say("no-new-privileges %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    if (setuid(0) && geteuid() == 0)
        say("setuid %s", word(errno));
    linger();
    return 0;
}

/* become UID: root changes its user */
static int become(char **argument)
{
    uid_t uid = (uid_t)atoi(argument[0]);
    TRY(setresuid(uid, uid, uid));
    say("became %d", getuid());
    linger();
    return 0;
}

/* give-away PATH UID */
static int give_away(char **argument)
{
    TRY(chown(argument[0], (uid_t)atoi(argument[1]), (gid_t)-1));
    return 0;
}

/* overwrite PATH */
static int overwrite(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_WRONLY | O_APPEND));
    TRY(write(fd, argument[1], strlen(argument[1])));
    return 0;
}

/* make-directory PATH */
static int make_directory(char **argument)
{
    TRY(mkdir(argument[0], 0700));
    return 0;
}

/* read PATH */
static int read_file(char **argument)
{
    char buffer[1024];
    int fd = (int)TRY(open(argument[0], O_RDONLY | O_NONBLOCK));
    ssize_t length = TRY(read(fd, buffer, sizeof buffer - 1));
    buffer[length] = 0;
    say("read %zd %.200s", length, buffer);
    return 0;
}

/* kernel-log: by syscall */
static int kernel_log(char **argument)
{
    static char buffer[1 << 16];
    long length;
    (void)argument;
    length = TRY(syscall(SYS_syslog, 3 /* READ_ALL */, buffer, sizeof buffer - 1));
    say("log %ld", length);
    return 0;
}

/* hurry: a better priority than others */
static int hurry(char **argument)
{
    (void)argument;
    TRY(setpriority(PRIO_PROCESS, 0, -5));
    linger();
    return 0;
}

const struct attack privilege_attacks[] = {
    {"whoami", 0, who_am_i},
    {"regain", 0, regain},
    {"become", 1, become},
    {"give-away", 2, give_away},
    {"overwrite", 2, overwrite},
    {"make-directory", 1, make_directory},
    {"read", 1, read_file},
    {"kernel-log", 0, kernel_log},
    {"hurry", 0, hurry},
    {0},
};
