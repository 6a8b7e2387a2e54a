/* Ways out to the network, and in. */
#include "attacks.h"
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/un.h>
#include <time.h>

#define RACE_MS 400

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
};

/* 127.0.0.1 and the like, an IPv6 address, or the name of a unix socket: `/path` or `@abstract`. */
static socklen_t parse(union address *address, const char *host, const char *port)
{
    memset(address, 0, sizeof *address);
    if (*host == '/' || *host == '@') {
        address->local.sun_family = AF_UNIX;
        strncpy(address->local.sun_path, host, sizeof address->local.sun_path - 1);
        if (*host == '@')
            address->local.sun_path[0] = 0;
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(host) + (*host == '/'));
    }
    if (strchr(host, ':')) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons((uint16_t)atoi(port));
        inet_pton(AF_INET6, host, &address->v6.sin6_addr);
        return sizeof address->v6;
    }
    address->v4.sin_family = AF_INET;
    address->v4.sin_port = htons((uint16_t)atoi(port));
    inet_pton(AF_INET, host, &address->v4.sin_addr);
    return sizeof address->v4;
}

static int port_of(int fd)
{
    union address address = {0};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) < 0)
        return -1;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static int kind_of(const char *name)
{
    return !strcmp(name, "datagram") ? SOCK_DGRAM : !strcmp(name, "sequence") ? SOCK_SEQPACKET : SOCK_STREAM;
}

/* connect KIND PROTOCOL HOST PORT: connects and sends */
static int connect_to(char **argument)
{
    union address to;
    socklen_t length = parse(&to, argument[2], argument[3]);
    int fd = (int)TRY(socket(to.any.sa_family, kind_of(argument[0]), atoi(argument[1])));
    TRY(connect(fd, &to.any, length));
    TRY(send(fd, MARK, strlen(MARK), MSG_NOSIGNAL));
    return 0;
}

/* Sends with an address, by each of the three calls. `flags` may carry high bits. */
static int send_to(int fd, const char *call, const union address *to, socklen_t length, long flags)
{
    struct iovec part = {(void *)MARK, strlen(MARK)};
    struct mmsghdr message = {
        .msg_hdr = {.msg_name = (void *)to, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1}};
    if (!strcmp(call, "sendto"))
        TRY(syscall(SYS_sendto, fd, MARK, strlen(MARK), flags, to, length));
    else if (!strcmp(call, "sendmsg"))
        TRY(syscall(SYS_sendmsg, fd, &message.msg_hdr, flags));
    else if (!strcmp(call, "sendmmsg"))
        TRY(syscall(SYS_sendmmsg, fd, &message, 1, flags));
    else if (!strcmp(call, "connect")) {
        TRY(connect(fd, &to->any, length));
        TRY(send(fd, MARK, strlen(MARK), MSG_NOSIGNAL));
    } else
        return EINVAL;
    return 0;
}

/* send CALL KIND HOST PORT FLAGS */
static int send_somewhere(char **argument)
{
    union address to;
    socklen_t length = parse(&to, argument[2], argument[3]);
    int fd = (int)TRY(socket(to.any.sa_family, kind_of(argument[1]), 0));
    int error = send_to(fd, argument[0], &to, length, strtol(argument[4], 0, 0));
    usleep(1000);
    return error;
}

/* fastopen-connect HOST PORT: connect() only notes the address, the first write opens the connection */
static int fastopen_connect(char **argument)
{
    union address to;
    socklen_t length = parse(&to, argument[0], argument[1]);
    int fd = (int)TRY(socket(to.any.sa_family, SOCK_STREAM, 0)), one = 1;
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
    TRY(connect(fd, &to.any, length));
    TRY(send(fd, MARK, strlen(MARK), MSG_NOSIGNAL));
    return 0;
}

/* aim-again HOST PORT OTHER-PORT HOW: a socket that was connected as granted, aimed at another port */
static int aim_again(char **argument)
{
    union address first, second, nothing = {.any = {.sa_family = AF_UNSPEC}};
    socklen_t length = parse(&first, argument[0], argument[1]);
    const char *how = argument[3];
    int fd = (int)TRY(socket(first.any.sa_family, SOCK_STREAM, 0)), one = 1;
    parse(&second, argument[0], argument[2]);
    if (!strcmp(how, "deferred")) {
        TRY(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
        TRY(connect(fd, &first.any, length));
        return send_to(fd, "sendto", &second, length, MSG_NOSIGNAL);
    }
    TRY(connect(fd, &first.any, length));
    if (!strcmp(how, "unspec")) {
        TRY(connect(fd, &nothing.any, sizeof nothing));
        TRY(connect(fd, &second.any, length));
    } else if (!strcmp(how, "sendto"))
        return send_to(fd, "sendto", &second, length, MSG_NOSIGNAL);
    else if (!strcmp(how, "unspec-fastopen")) {
        TRY(connect(fd, &nothing.any, sizeof nothing));
        return send_to(fd, "sendto", &second, length, MSG_FASTOPEN | MSG_NOSIGNAL);
    }
    TRY(send(fd, MARK, strlen(MARK), MSG_NOSIGNAL));
    return 0;
}

/* serve KIND PROTOCOL HOST PORT: says its port, and shows what the first peer sends. HOST "-": no bind. */
static int serve(char **argument)
{
    union address at;
    int unbound = !strcmp(argument[2], "-"), kind = kind_of(argument[0]), peer;
    socklen_t length = parse(&at, unbound ? "127.0.0.1" : argument[2], argument[3]);
    int fd = (int)TRY(socket(at.any.sa_family, kind, atoi(argument[1])));
    struct pollfd poll_ = {fd, POLLIN, 0};
    char buffer[64];
    if (!unbound)
        TRY(bind(fd, &at.any, length));
    if (kind != SOCK_DGRAM)
        TRY(listen(fd, 4));
    say("port %d", at.any.sa_family == AF_UNIX ? 0 : port_of(fd));
    if (poll(&poll_, 1, 5000) != 1)
        return ETIMEDOUT;
    peer = kind == SOCK_DGRAM ? fd : (int)TRY(accept(fd, 0, 0));
    length = (socklen_t)TRY(recv(peer, buffer, sizeof buffer - 1, 0));
    buffer[length] = 0;
    say("received %s", buffer);
    return 0;
}

/* Which sockets can be made. A wide net for where it costs nothing: every family, type and a lot of protocols. */
static void try_socket(long call, const char *name, long family, long type, long protocol)
{
    int pair[2];
    long fd = syscall(call, family, type, protocol, pair);
    if (fd < 0)
        return;
    if (call == SYS_socketpair) {
        close(pair[0]);
        close(pair[1]);
    } else
        close((int)fd);
    say("%s %ld %ld %ld", name, family & 0xffffffff, type & 0xf, protocol & 0xffffffff);
}

/* sockets MODIFIER: 0x800 SOCK_NONBLOCK, 0x80000 SOCK_CLOEXEC, or bits above 32 in every argument */
static int all_sockets(char **argument)
{
    long more = strtol(argument[0], 0, 0), high = more & ~0xffffffffL;
    static const int types[] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 15};
    for (long family = 0; family < 64; family++)
        for (size_t type = 0; type < sizeof types / sizeof *types; type++)
            for (long protocol = -1; protocol < 300; protocol++) {
                try_socket(SYS_socket, "socket", family | high, types[type] | more, protocol | high);
                if (protocol < 8 || protocol > 250)
                    try_socket(SYS_socketpair, "socketpair", family | high, types[type] | more, protocol | high);
            }
    return 0;
}

/* some-sockets FAMILY,TYPE,PROTOCOL...: the same for a few, where each costs a kernel's work */
static int some_sockets(char **argument)
{
    for (; *argument; argument++) {
        long family, type, protocol;
        if (sscanf(*argument, "%ld,%ld,%ld", &family, &type, &protocol) != 3)
            return EINVAL;
        try_socket(SYS_socket, "socket", family, type, protocol);
        try_socket(SYS_socketpair, "socketpair", family, type, protocol);
    }
    return 0;
}

/* pair-aim KIND CALL NAME: one end of a socket pair, aimed at a named socket */
static int pair_aim(char **argument)
{
    union address to;
    socklen_t length = parse(&to, argument[2], "0");
    int pair[2];
    TRY(socketpair(AF_UNIX, kind_of(argument[0]), 0, pair));
    return send_to(pair[0], argument[1], &to, length, MSG_NOSIGNAL);
}

/* inherited-aim CALL NAME PORT: stdin is a socket that somebody else made */
static int inherited_aim(char **argument)
{
    union address to;
    socklen_t length = parse(&to, argument[1], argument[2]);
    return send_to(0, argument[0], &to, length, MSG_NOSIGNAL);
}

/* pair-talk KIND: what a socket pair is for */
static int pair_talk(char **argument)
{
    int pair[2];
    char buffer[16];
    TRY(socketpair(AF_UNIX, kind_of(argument[0]) | SOCK_CLOEXEC, 0, pair));
    TRY(write(pair[0], "x", 1));
    TRY(read(pair[1], buffer, sizeof buffer));
    TRY(send(pair[1], "y", 1, MSG_NOSIGNAL));
    TRY(recv(pair[0], buffer, sizeof buffer, 0));
    return buffer[0] == 'y' ? 0 : EIO;
}

/* listen-race PORT: another thread puts an unbound socket under the number that listen() is called with */

static struct race {
    int bound, unbound, number, stop;
} race;

static void *swap(void *unused)
{
    while (!__atomic_load_n(&race.stop, __ATOMIC_RELAXED)) {
        dup2(race.unbound, race.number);
        dup2(race.bound, race.number);
    }
    return unused;
}

static int listen_race(char **argument)
{
    union address at;
    socklen_t length = parse(&at, "127.0.0.1", argument[0]), size = sizeof(int);
    pthread_t thread;
    struct timespec now;
    long limit;
    int one = 1, listening = 0;
    race.bound = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    race.unbound = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(setsockopt(race.bound, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    TRY(bind(race.bound, &at.any, length));
    race.number = (int)TRY(dup(race.bound));
    if (pthread_create(&thread, 0, swap, 0))
        return EAGAIN;
    clock_gettime(CLOCK_MONOTONIC, &now);
    limit = now.tv_sec * 1000 + now.tv_nsec / 1000000 + RACE_MS;
    while (!listening && now.tv_sec * 1000 + now.tv_nsec / 1000000 < limit) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        listen(race.number, 4);
        getsockopt(race.unbound, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size);
    }
    __atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, 0);
    say("unbound listens %d on %d", listening, port_of(race.unbound));
    linger();
    return listening ? 0 : EACCES;
}

/* listen-again PORT: bound as granted, listened, then dissolved and listened again on a port of the kernel's choice */
static int listen_again(char **argument)
{
    union address at, nothing = {.any = {.sa_family = AF_UNSPEC}};
    socklen_t length = parse(&at, "127.0.0.1", argument[0]);
    int fd = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(bind(fd, &at.any, length));
    TRY(listen(fd, 4));
    TRY(shutdown(fd, SHUT_RDWR));
    connect(fd, &nothing.any, sizeof nothing);
    listen(fd, 4);
    say("listens on %d", port_of(fd));
    linger();
    return 0;
}

/* upper-layer NAME: another protocol over TCP */
static int upper_layer(char **argument)
{
    int fd = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_ULP, argument[0], (socklen_t)strlen(argument[0])));
    return 0;
}

/* interfaces: what the machine's network looks like, by ioctl on any socket */
static int interfaces(char **argument)
{
    struct ifreq request = {.ifr_ifindex = 1};
    int pair[2];
    (void)argument;
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    TRY(ioctl(pair[0], 0x8910 /* SIOCGIFNAME */, &request));
    say("interface %s", request.ifr_name);
    return 0;
}

/* route-dump: asks netlink for the machine's links, as getaddrinfo and if_nameindex do */
static int route_dump(char **argument)
{
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    struct sockaddr_nl nobody = {.nl_family = AF_NETLINK};
    char buffer[8192];
    (void)argument;
    int fd = (int)TRY(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    TRY(bind(fd, (struct sockaddr *)&nobody, sizeof nobody));
    TRY(sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&nobody, sizeof nobody));
    TRY(recv(fd, buffer, sizeof buffer, 0));
    say("type %d", ((struct nlmsghdr *)buffer)->nlmsg_type);
    return 0;
}

/* route-change MTU: sets the loopback's MTU to what it is, which needs the right to change it */
static int route_change(char **argument)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg body;
        struct rtattr attribute;
        uint32_t value;
    } request = {{sizeof request, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
                 {.ifi_index = 1},
                 {RTA_LENGTH(4), IFLA_MTU},
                 (uint32_t)atoi(argument[0])};
    struct sockaddr_nl nobody = {.nl_family = AF_NETLINK};
    char buffer[512];
    int fd = (int)TRY(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    TRY(sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&nobody, sizeof nobody));
    TRY(recv(fd, buffer, sizeof buffer, 0));
    return -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)buffer))->error;
}

const struct attack network_attacks[] = {
    {"connect", 4, connect_to},
    {"send", 5, send_somewhere},
    {"fastopen-connect", 2, fastopen_connect},
    {"aim-again", 4, aim_again},
    {"serve", 4, serve},
    {"sockets", 1, all_sockets},
    {"some-sockets", 1, some_sockets},
    {"pair-aim", 3, pair_aim},
    {"inherited-aim", 3, inherited_aim},
    {"pair-talk", 1, pair_talk},
    {"listen-race", 1, listen_race},
    {"listen-again", 1, listen_again},
    {"upper-layer", 1, upper_layer},
    {"interfaces", 0, interfaces},
    {"route-dump", 0, route_dump},
    {"route-change", 1, route_change},
    {0},
};
