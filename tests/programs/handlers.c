/* Native handlers of the tests. */
#include <sandlock/handler.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A negative number as an errno, another one as the value. */
static struct sandlock_action answer(int64_t result)
{
    return result < 0 ? sandlock_errno((int)-result) : sandlock_value(result);
}

/* What the context says: a struct sandlock_action. */
struct sandlock_action as_told(const struct sandlock_call *call, void *context)
{
    (void)call;
    return *(struct sandlock_action *)context;
}

/* What the call is: the context gets a copy, and the process. */
struct facts { struct sandlock_call call; int32_t tgid; };

struct sandlock_action look(const struct sandlock_call *call, void *context)
{
    struct facts *facts = context;
    facts->call = *call;
    facts->tgid = call->tgid(call);
    return sandlock_continue();
}

/* Reads args[1] bytes at args[0]; the first byte, or the error. */
struct sandlock_action first_byte(const struct sandlock_call *call, void *context)
{
    static __thread unsigned char room[SANDLOCK_MAX_ACCESS + 1];
    (void)context;
    int64_t result = call->read(call, call->args[0], room, call->args[1]);
    return answer(result < 0 ? result : result * 256 + room[0]);
}

/* Reads the string at args[0] into args[1] bytes; its length. */
struct sandlock_action string_length(const struct sandlock_call *call, void *context)
{
    char room[4096];
    (void)context;
    return answer(call->read_string(call, call->args[0], room, call->args[1]));
}

/* Writes "WRITTEN" to args[0]. */
struct sandlock_action write_word(const struct sandlock_call *call, void *context)
{
    (void)context;
    return answer(call->write(call, call->args[0], "WRITTEN", 8));
}

/* Reads args[1] bytes again and again, until there are no more to be had: how often. */
struct sandlock_action as_often_as_it_goes(const struct sandlock_call *call, void *context)
{
    static __thread char room[SANDLOCK_MAX_ACCESS];
    (void)context;
    int64_t result;
    int count = -1;
    do
        count++, result = call->read(call, call->args[0], room, call->args[1]);
    while (result >= 0 && count < 1000);
    return result == -EDQUOT ? sandlock_value(count) : answer(result);
}

/* Reads, and lets the call go on. */
struct sandlock_action read_and_continue(const struct sandlock_call *call, void *context)
{
    char byte;
    (void)context;
    call->read(call, call->args[1], &byte, 1);
    return sandlock_continue();
}

/* An observer: the context is a lot of room, to which it adds the string at args[1]. Tries to write, too. */
struct sandlock_action observe(const struct sandlock_call *call, void *context)
{
    char path[256];
    if (call->read_string(call, call->args[1], path, sizeof path) >= 0 && strlen(context) < 60000) {
        strcat(context, path);
        strcat(context, "\n");
    }
    if (call->write(call, call->args[1], "x", 1) != -EPERM)
        strcat(context, "WRITTEN\n");
    return sandlock_continue();
}

/* Waits for a while, too long for the caller; then the context gets what the accessors say. */
struct sandlock_action too_late(const struct sandlock_call *call, void *context)
{
    int64_t *results = context;
    char byte = 0;
    usleep(350000);
    results[0] = call->read(call, call->args[0], &byte, 1);
    results[1] = call->write(call, call->args[0], &byte, 1);
    results[2] = call->read_string(call, call->args[0], &byte, 1);
    results[3] = call->tgid(call);
    results[4] = 1;
    return sandlock_continue();
}
