/* A guest that makes system calls as it is told, and says what came of each; bare and confined it has to say the same.
 *
 * It reads scripts: a line with a directory, a line for each call, a line with a dot. A script runs in a process of its
 * own, in that directory. A line is `NUMBER ARGUMENT... [>SLOT]`; the result is a descriptor that SLOT keeps. Arguments:
 *
 *     12, -100, 0x41, 0644   a number              pTEXT   a string, with %XX for bytes
 *     dSLOT                  a descriptor          eTEXT   a string that ends where the memory ends
 *     =                      the length of the     xTEXT   the same without its end: reading it fails
 *                            last string           uTEXT   the address of a unix socket
 *     w1,2,...               64-bit words          oKIND   room for a result; KIND says how it is shown
 *     aTEXT,FLAGS            a value for setxattrat
 */
#include "guest.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <linux/capability.h>

enum { ROOM = 1 << 16, SLOTS = 10, STRINGS = 1 << 15, ARGUMENTS = 6, SEEN = 4096, LONG_AGO = 1000000000 };

static char result[ROOM] __attribute__((aligned(16)));
static char strings[STRINGS] __attribute__((aligned(16)));
static size_t used, last;
static char *ends_of_memory[ARGUMENTS]; /* one for each string of a call */
static int ends;
static int slots[SLOTS];
static const char *kind;

/* ---- reading a line */

static size_t decode(char *to, const char *from)
{
    size_t length = 0;
    for (; *from; from++, length++) {
        unsigned byte = (unsigned char)*from;
        if (*from == '%') {
            if (sscanf(from + 1, "%2x", &byte) != 1)
                _exit(4);
            from += 2;
        }
        to[length] = (char)byte;
    }
    to[length] = 0;
    return length;
}

static char *room(size_t size)
{
    char *start = strings + used;
    used = (used + size + 15) & ~(size_t)15;
    if (used > STRINGS)
        _exit(5);
    return start;
}

static long string(const char *text, char how)
{
    char *start = room(strlen(text) + 1);
    last = decode(start, text);
    if (how == 'p')
        return (long)start;
    size_t size = last + (how == 'e');
    return (long)memcpy(ends_of_memory[ends++] - size, start, size);
}

static long socket_address(const char *text)
{
    struct sockaddr_un *address = (void *)room(sizeof *address + strlen(text));
    address->sun_family = AF_UNIX;
    last = decode(address->sun_path, text) + 1 + offsetof(struct sockaddr_un, sun_path);
    return (long)address;
}

static long numbers(const char *text)
{
    unsigned long *start = (void *)room(8 * (strlen(text) + 1)), *word = start;
    for (char *next = (char *)text; *next; next += *next == ',')
        *word++ = strtoul(next, &next, 0);
    return (long)start;
}

static long attribute(char *text)
{
    struct { unsigned long value; unsigned size, flags; } *arguments = (void *)room(sizeof *arguments);
    char *comma = strchr(text, ',');
    if (!comma)
        _exit(6);
    *comma = 0;
    arguments->value = (unsigned long)string(text, 'p');
    arguments->size = (unsigned)last;
    arguments->flags = (unsigned)strtoul(comma + 1, NULL, 0);
    return (long)arguments;
}

static long argument(char *word)
{
    switch (*word) {
    case 'p': case 'e': case 'x':
        return string(word + 1, *word);
    case 'd':
        return slots[atoi(word + 1) % SLOTS];
    case 'u':
        return socket_address(word + 1);
    case 'w':
        return numbers(word + 1);
    case 'a':
        return attribute(word + 1);
    case '=':
        return (long)last;
    case 'o':
        kind = word + 1;
        return (long)result;
    default:
        return strtol(word, NULL, 0);
    }
}

/* ---- saying what came of it */

static char line[4 * ROOM];
static size_t filled;

static void put(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    filled += (size_t)vsnprintf(line + filled, sizeof line - filled, format, arguments);
    va_end(arguments);
}

static void put_text(const char *text, long length)
{
    for (; length > 0; length--, text++)
        put(*text > ' ' && *text < 127 && *text != '%' ? "%c" : "%%%02X", (unsigned char)*text);
}

/* Which of the objects that were seen: numbers of inodes are not the same twice. */
static int which(const struct statx *found)
{
    static struct { unsigned long inode; long seconds; unsigned device, part; } seen[SEEN];
    static int count;
    for (int i = 0; i < count; i++)
        if (seen[i].inode == found->stx_ino && seen[i].device == found->stx_dev_minor &&
            seen[i].seconds == found->stx_btime.tv_sec && seen[i].part == found->stx_btime.tv_nsec)
            return i;
    seen[count].inode = found->stx_ino;
    seen[count].device = found->stx_dev_minor;
    seen[count].seconds = found->stx_btime.tv_sec;
    seen[count].part = found->stx_btime.tv_nsec;
    return count < SEEN - 1 ? count++ : count;
}

/* Times that were set. New sockets have those of others that were at the same place in the kernel's memory. */
static void put_time(const char *name, unsigned mode, long seconds, unsigned part)
{
    if (seconds < LONG_AGO && !S_ISSOCK(mode))
        put(" %s=%ld.%u", name, seconds, part);
}

static void put_status(const struct stat *found)
{
    put(" mode=%o nlink=%lu owner=%u:%u", found->st_mode, (unsigned long)found->st_nlink, found->st_uid, found->st_gid);
    if (!S_ISDIR(found->st_mode))
        put(" size=%ld rdev=%lx", (long)found->st_size, (long)found->st_rdev);
    put_time("atime", found->st_mode, found->st_atim.tv_sec, (unsigned)found->st_atim.tv_nsec);
    put_time("mtime", found->st_mode, found->st_mtim.tv_sec, (unsigned)found->st_mtim.tv_nsec);
}

static void put_statx(const struct statx *found)
{
    put(" mask=%x attributes=%lx mode=%o nlink=%u owner=%u:%u", found->stx_mask, (long)found->stx_attributes,
        found->stx_mode, found->stx_nlink, found->stx_uid, found->stx_gid);
    if (!S_ISDIR(found->stx_mode))
        put(" size=%ld rdev=%x:%x", (long)found->stx_size, found->stx_rdev_major, found->stx_rdev_minor);
    put_time("atime", found->stx_mode, found->stx_atime.tv_sec, found->stx_atime.tv_nsec);
    put_time("mtime", found->stx_mode, found->stx_mtime.tv_sec, found->stx_mtime.tv_nsec);
    if (found->stx_mask & STATX_BTIME)
        put(" object=%d", which(found));
}

static int by_name(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

/* Entries of directories: struct linux_dirent64 has the type before the name, struct linux_dirent at its end. */
static void put_entries(long length, int old)
{
    char *names[ROOM / 24];
    int count = 0;
    for (long at = 0; at < length;) {
        unsigned short size = *(unsigned short *)(result + at + 16);
        char *name = result + at + (old ? 18 : 19);
        unsigned char type = (unsigned char)(old ? result[at + size - 1] : result[at + 18]);
        result[at] = (char)type; /* in place of d_ino, which nobody is told */
        names[count++] = name;
        at += size;
    }
    qsort(names, (size_t)count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) {
        put(" ");
        put_text(names[i], (long)strlen(names[i]));
        put("/%d", names[i][-(old ? 18 : 19)]);
    }
}

static void put_descriptor(int fd)
{
    struct stat found;
    put(" fd=%d flags=%x%s at=%ld", fd, fcntl(fd, F_GETFL) & ~O_NOFOLLOW, fcntl(fd, F_GETFD) ? " cloexec" : "",
        (long)lseek(fd, 0, SEEK_CUR));
    if (!fstat(fd, &found))
        put_status(&found);
}

static void put_result(long value)
{
    if (!strcmp(kind, "stat")) {
        put_status((struct stat *)result);
    } else if (!strcmp(kind, "statx")) {
        put_statx((struct statx *)result);
    } else if (!strcmp(kind, "text")) {
        put(" ");
        put_text(result, value);
    } else if (!strcmp(kind, "entries") || !strcmp(kind, "old-entries")) {
        put_entries(value, *kind == 'o');
    } else if (!strcmp(kind, "statfs")) {
        struct statfs *found = (void *)result;
        put(" type=%lx block=%ld longest=%ld flags=%lx", (long)found->f_type, (long)found->f_bsize,
            (long)found->f_namelen, (long)found->f_flags);
    } else if (!strcmp(kind, "word")) {
        put(" %lx", *(unsigned long *)result);
    }
}

static void execute(char *text)
{
    long arguments[ARGUMENTS] = {0}, number = strtol(strtok(text, " "), NULL, 0), value;
    int count = 0, slot = -1;
    char *each;
    used = last = filled = 0;
    ends = 0;
    kind = "";
    memset(strings, 0, sizeof strings);
    memset(result, 0, sizeof result);
    while ((each = strtok(NULL, " "))) {
        if (*each == '>')
            slot = atoi(each + 1) % SLOTS;
        else if (count < ARGUMENTS)
            arguments[count++] = argument(each);
    }
    if (slot >= 0 && slots[slot] >= 0) {
        close(slots[slot]);
        slots[slot] = -1;
    }
    value = syscall((int)number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    if (value < 0) {
        put("%s", word(errno));
    } else if (slot >= 0) {
        slots[slot] = (int)value;
        put("0");
        put_descriptor((int)value);
    } else {
        put("%ld", value);
        put_result(value);
    }
    put("\n");
    if (write(1, line, filled) != (ssize_t)filled)
        _exit(7);
}

/* ---- scripts */

static void without_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct nothing[2] = {0};
    if (syscall(SYS_capset, &header, nothing) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _exit(8);
}

static void run(char *script)
{
    char *rest = script, *text;
    alarm(LIFETIME);
    umask(022);
    for (int i = 0; i < SLOTS; i++)
        slots[i] = -1;
    say("pid %d", getpid());
    text = strsep(&rest, "\n");
    decode(strings, text);
    if (chdir(strings))
        say("cannot chdir: %s", word(errno));
    else
        while ((text = strsep(&rest, "\n")) && *text)
            execute(text);
    _exit(0);
}

int main(int count, char **words)
{
    static char script[1 << 24];
    size_t length = 0;
    for (int i = 0; i < ARGUMENTS; i++) {
        char *memory = mmap(NULL, 3 << 14, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ends_of_memory[i] = memory + (2 << 14);
        if (memory == MAP_FAILED || mprotect(ends_of_memory[i], 1 << 14, PROT_NONE))
            return 9;
    }
    if (count > 1 && !strcmp(words[1], "bare"))
        without_capabilities();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    while (fgets(script + length, (int)(sizeof script - length), stdin)) {
        if (length > sizeof script - (1 << 14))
            return 10;
        if (strcmp(script + length, ".\n")) {
            length += strlen(script + length);
            continue;
        }
        script[length] = 0;
        length = 0;
        pid_t child = fork();
        if (!child)
            run(script);
        say("end %x", child < 0 ? errno : wait_for(child));
    }
    return 0;
}
