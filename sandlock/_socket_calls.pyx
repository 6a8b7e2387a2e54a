"""The fast lane's part of connect, bind, listen and send: read where the call leads, decide, and make the call for the
guest, on its own socket and with the address that was judged.

What is allowed and need not wait is done at once. What has to wait goes to the poller, what nobody has decided yet to
Python; both by a slot.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._approvals cimport approves_call
from sandlock._destinations cimport (
    DECIDED_ALLOW, DECIDED_ASK, OPERATION_BIND, OPERATION_CONNECT, OPERATION_LISTEN, OPERATION_SEND, decide, is_lookup,
    protocol_of, set_destination,
)
from sandlock._linux cimport (
    SYS_bind, SYS_close, SYS_connect, SYS_listen, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, raw_syscall,
)
from sandlock._memory cimport Address, MessageHeader, read_msghdr, read_sockaddr
from sandlock._messages cimport Outgoing, break_pipe, read_outgoing, send_some, write_count
from sandlock._path_table cimport hides, hiding
from sandlock._pins cimport aim_at_resolver, note_asker
from sandlock._run cimport PROTOCOL_UNIX
from sandlock._run cimport Run
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_APPROVED, CAUSE_AUDIT, CAUSE_FULL, CAUSE_NO_RULE, CAUSE_RULE, CAUSE_UNREADABLE, READY, Slot,
    Table, ask, give_back, load_int, load_paths, load_rules, note_call, permit_call, scratch_of, still_waits,
    store_word, take_slot, with_state,
)
from sandlock._sockets cimport (
    SocketCall, bind_anywhere, bound_port, cookie_of, duplicate, listen_here, look_at, may_wait, start_connect,
)
from sandlock._tasks cimport now_ns, thread_group_of
from sandlock._unix_sockets cimport denied_socket, find_socket, is_hidden_socket
from sandlock._wakeups cimport wake_poller
from sandlock._workers cimport start_poller, start_worker

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAFNOSUPPORT
    const int EAGAIN
    const int EBADF
    const int EINPROGRESS
    const int EINVAL
    const int ENOENT
    const int ENOMEM
    const int EPERM
    const int EPIPE
    const int ESRCH

cdef extern from "<sys/socket.h>" nogil:
    const int AF_INET
    const int AF_INET6
    const int AF_NETLINK
    const int AF_UNIX
    const int AF_UNSPEC
    const int MSG_DONTWAIT
    const int SOCK_SEQPACKET
    const int SOCK_STREAM

cdef enum:
    MMSGHDR = 64             # struct mmsghdr: a msghdr of 56 bytes, and what was sent of it
    COUNT_OFFSET = 56
    MAX_MESSAGES = 1024      # UIO_MAXIOV
    NO_DECISION = 1          # the call leads nowhere new


# Reading -------------------------------------------------------------------------------------------------------------

cdef void read_registers(const Notification *notification, SocketCall *call) noexcept nogil:
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    cdef int number = notification.data.nr
    memset(call, 0, sizeof(call[0]))
    call.may_hold = 1
    call.descriptor = <int>args[0]
    if number == SYS_connect:
        call.endpoint.operation = OPERATION_CONNECT
    elif number == SYS_bind:
        call.endpoint.operation = OPERATION_BIND
    elif number == SYS_listen:
        call.endpoint.operation = OPERATION_LISTEN
        call.flags = <int>args[1]
    else:
        call.endpoint.operation = OPERATION_SEND
        if number == SYS_sendto:
            call.buffer = args[1]
            call.size = args[2]
            call.flags = <int>args[3]
        elif number == SYS_sendmsg:
            call.message = args[1]
            call.flags = <int>args[2]
        else:
            call.message = args[1]
            call.count_at = args[1] + COUNT_OFFSET
            call.flags = <int>args[3]


cdef int read_address(const Notification *notification, const SocketCall *call, Address *address) noexcept nogil:
    """The socket address that the call names; of length 0 if it names none. Returns 0 or -errno."""
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    cdef pid_t tid = <pid_t>notification.pid
    cdef MessageHeader header
    cdef int result
    if call.endpoint.operation != OPERATION_SEND:
        return read_sockaddr(tid, args[1], <int>args[2], address)
    memset(address, 0, sizeof(address[0]))
    if call.message == 0:
        return read_sockaddr(tid, args[4], <int>args[5], address) if args[4] != 0 and <int>args[5] != 0 else 0
    result = read_msghdr(tid, call.message, &header)
    if result < 0 or header.name == 0:
        return result
    return read_sockaddr(tid, header.name, header.name_length, address)


cdef int set_endpoint(
    const Run *run, const Notification *notification, SocketCall *call, const Address *address
) noexcept nogil:
    """Where the call leads. Returns 0, NO_DECISION, or -errno."""
    cdef int domain = call.facts.domain
    cdef int binds = call.endpoint.operation == OPERATION_BIND
    cdef int sends = call.endpoint.operation == OPERATION_SEND
    call.endpoint.protocol = protocol_of(domain, call.facts.protocol)
    if domain == AF_NETLINK:         # only the kernel listens to us there
        return -EPERM if address.netlink_pid != 0 and not binds else NO_DECISION
    if address.family == AF_UNSPEC and not binds:
        # A connection is dissolved. Some sendto(2) take such an address as one of IPv4: nothing that we pass on.
        return -EAFNOSUPPORT if sends else NO_DECISION
    if domain == AF_UNIX:
        if address.family != AF_UNIX:
            return -EINVAL
        call.endpoint.abstract = address.abstract
        if address.path_length == 0 and not address.abstract:
            return NO_DECISION if binds else -EINVAL      # autobind(7): a name of the kernel's choice
        if not address.abstract:
            return find_socket(run, <pid_t>notification.pid, thread_group_of(<pid_t>notification.pid), call)
        memcpy(call.endpoint.path, address.path, address.path_length)
        call.endpoint.path_length = address.path_length
        return 0
    if domain != AF_INET and domain != AF_INET6:
        return -EACCES
    if address.family != AF_INET and address.family != AF_INET6 and address.family != AF_UNSPEC:
        return -EAFNOSUPPORT
    if binds:
        call.endpoint.port = address.port
        call.endpoint.width = address.width
        call.endpoint.scope_id = address.scope_id
        memcpy(call.endpoint.bytes, address.bytes, sizeof(address.bytes))
    elif set_destination(&call.endpoint, address):
        # sockaddr_in and sockaddr_in6 have their address behind 4 and 8 bytes; IPv4 in IPv6 is in its last four.
        memcpy(
            call.address + (4 if address.family != AF_INET6 else 8 if address.width == 16 else 20),
            call.endpoint.bytes, address.width
        )
    return 0


cdef int read_target(
    const Run *run, const Notification *notification, SocketCall *call, long descriptor
) noexcept nogil:
    """Reads where the call leads. Returns 0 if that has to be decided, NO_DECISION, or -errno."""
    cdef Address address
    cdef long port
    cdef int result
    if call.endpoint.operation == OPERATION_LISTEN:
        port = bound_port(descriptor)
        if port < 0:
            return NO_DECISION if port == -1 else <int>port    # bound already, and judged then
        call.endpoint.protocol = protocol_of(call.facts.domain, call.facts.protocol)
        call.endpoint.port = <unsigned short>port
        return 0
    if call.endpoint.operation == OPERATION_SEND and (
        call.facts.type == SOCK_STREAM or call.facts.type == SOCK_SEQPACKET
    ):
        return NO_DECISION           # it goes to the peer; an address is ignored, or an error
    result = read_address(notification, call, &address)
    if result < 0:
        return result
    if call.endpoint.operation == OPERATION_SEND and address.length == 0:
        return NO_DECISION           # to the peer, or nowhere (EDESTADDRREQ)
    call.address_length = address.length
    memcpy(call.address, address.raw, sizeof(call.address))
    return set_endpoint(run, notification, call, &address)


cdef int measure(const Notification *notification, SocketCall *call) noexcept nogil:
    """How many bytes a sendmsg(2) that will be asked about wants to send. Returns 0 or -errno."""
    cdef Outgoing message
    cdef int result = read_outgoing(<pid_t>notification.pid, call, &message)
    if result == 0:
        call.size = message.total
    return result


# Putting it where somebody else answers ------------------------------------------------------------------------------

cdef void note_refusal(
    Crew *crew, const Notification *notification, const SocketCall *call, int cause, int rule, int64_t result
) noexcept nogil:
    note_call(
        crew.table, cause, rule, <int>-result, notification.data.nr, thread_group_of(<pid_t>notification.pid),
        &call.endpoint
    )


cdef int64_t hold(
    Crew *crew, const Notification *notification, SocketCall *call, long descriptor, int asks
) noexcept nogil:
    """Puts the call into a slot: for Python if it `asks`, else for the poller. Returns HELD or -errno."""
    cdef Table *table = crew.table
    cdef Slot *slot = NULL
    if not call.may_hold:
        return -EAGAIN
    if start_poller(crew) == 0 and (not asks or load_int(&table.idle) > 0 or start_worker(crew) == 0):
        slot = take_slot(table)
    if slot == NULL:
        note_refusal(crew, notification, call, CAUSE_FULL, -1, -EAGAIN)
        return -EAGAIN
    slot.operation = call.endpoint.operation
    slot.rule = -1
    slot.id = notification.id
    slot.tid = <pid_t>notification.pid
    slot.tgid = thread_group_of(slot.tid)
    slot.number = notification.data.nr
    call.cookie = cookie_of(descriptor)
    slot.call = call[0]
    slot.asked = slot.waited = 0
    slot.recorded = not asks     # else it is on record as allowed, or was nothing to decide
    if not still_waits(table, slot):
        give_back(slot)
        return -ESRCH
    if asks:
        ask(table, slot)
        return HELD
    slot.act = ACT_ALLOW
    store_word(&slot.word, with_state(slot.word, READY))
    wake_poller(table)
    return HELD


# Making the call -----------------------------------------------------------------------------------------------------

cdef int64_t send_now(Crew *crew, const Notification *notification, SocketCall *call, long descriptor) noexcept nogil:
    """Sends what goes at once. Returns the bytes, -errno, or HELD where the rest, or all of it, has to wait."""
    cdef Outgoing message
    cdef char *room = scratch_of(crew.table)
    cdef int64_t result
    if room == NULL:
        return -ENOMEM
    result = read_outgoing(<pid_t>notification.pid, call, &message)
    if result == -EPERM:
        note_refusal(crew, notification, call, CAUSE_NO_RULE, -1, result)
    if result < 0:
        return result
    call.size = message.total
    if message.passes_descriptors:       # they would go through the host's table
        return hold(crew, notification, call, descriptor, 0)
    result = send_some(
        &crew.caller, crew.table.run.listener, notification.id, <pid_t>notification.pid, descriptor, call, &message,
        room
    )
    if result == -EAGAIN and may_wait(call):
        return hold(crew, notification, call, descriptor, 0)
    if result > 0 and call.facts.type == SOCK_STREAM and may_wait(call) and <uint64_t>result < message.total:
        call.progress = result
        return hold(crew, notification, call, descriptor, 0)
    if result == -EPIPE:
        break_pipe(thread_group_of(<pid_t>notification.pid), <pid_t>notification.pid, call, result)
    return result


cdef int64_t call_now(Crew *crew, const Notification *notification, SocketCall *call, long descriptor) noexcept nogil:
    """Makes an allowed call. Returns its result, or HELD where it has to wait."""
    cdef int64_t result
    if call.endpoint.operation == OPERATION_SEND:
        if call.endpoint.path_length > 0 and not call.endpoint.abstract:
            return hold(crew, notification, call, descriptor, 0)
        return send_now(crew, notification, call, descriptor)
    if call.endpoint.operation == OPERATION_LISTEN:
        return listen_here(descriptor, call.flags, call.endpoint.port)
    if call.endpoint.protocol == PROTOCOL_UNIX:
        return hold(crew, notification, call, descriptor, 0)      # who connects is kept waiting, who binds has a umask
    if call.endpoint.operation == OPERATION_BIND:
        return raw_syscall(SYS_bind, descriptor, <long>call.address, call.address_length, 0, 0, 0)
    result = start_connect(descriptor, call)
    if result == -EINPROGRESS and may_wait(call):
        call.started = 1
        return hold(crew, notification, call, descriptor, 0)
    return result


cdef pid_t process_of(const Table *table, const Notification *notification) noexcept nogil:
    """Of the caller, for the record; 0 where there is none."""
    return thread_group_of(<pid_t>notification.pid) if table.journal != NULL else 0


cdef int64_t look_up(Crew *crew, const Notification *notification, SocketCall *call, long descriptor) noexcept nogil:
    """Makes a call that wants to ask a name server: it asks our resolver, which answers those ports only that are
    noted here. Returns its result, HELD, or -errno."""
    cdef long result, port = bound_port(descriptor)
    if port == 0:
        result = bind_anywhere(descriptor, call.facts.domain)
        if result < 0:
            return result
        port = bound_port(descriptor)
    note_asker(crew.table.pins, port, thread_group_of(<pid_t>notification.pid))
    aim_at_resolver(crew.table.pins, call.address, call.endpoint.width)
    return call_now(crew, notification, call, descriptor)


cdef int64_t judge(Crew *crew, const Notification *notification, SocketCall *call, long descriptor) noexcept nogil:
    """Decides where a call may lead, and makes it or has it made. Returns its result, HELD, or -errno."""
    cdef int rule = denied_socket(crew.table.run, load_paths(&crew.table.paths), call), cause, decision
    if rule >= 0:
        note_refusal(crew, notification, call, CAUSE_RULE, rule, -EACCES)
        return -ENOENT if is_hidden_socket(crew.table.run, load_paths(&crew.table.paths), call) else -EACCES
    decision = decide(
        load_rules(&crew.table.net_rules), crew.table.pins, crew.table.run.program.asks_network, &call.endpoint, &rule
    )
    cause = CAUSE_RULE if rule >= 0 else CAUSE_NO_RULE
    if decision == DECIDED_ASK and approves_call(&crew.table.approvals, &call.endpoint):
        decision = DECIDED_ALLOW
        cause = CAUSE_APPROVED
    if decision == DECIDED_ALLOW:
        if not permit_call(
            crew.table, cause, rule, notification.data.nr, process_of(crew.table, notification), &call.endpoint
        ):
            note_refusal(crew, notification, call, CAUSE_AUDIT, -1, -EACCES)
            return -EACCES
        return call_now(crew, notification, call, descriptor)
    if is_lookup(&call.endpoint) and crew.table.pins != NULL and crew.table.pins.port != 0:
        return look_up(crew, notification, call, descriptor)
    if decision == DECIDED_ASK:
        if call.message != 0:
            decision = measure(notification, call)
            if decision == -EPERM:
                note_refusal(crew, notification, call, CAUSE_NO_RULE, -1, decision)
            if decision < 0:
                return decision
        return hold(crew, notification, call, descriptor, 1)
    note_refusal(crew, notification, call, cause, rule, -EACCES)
    return -ENOENT if is_hidden_socket(crew.table.run, load_paths(&crew.table.paths), call) else -EACCES


cdef int64_t vet_call(Crew *crew, const Notification *notification, SocketCall *call) noexcept nogil:
    cdef int64_t result
    cdef long descriptor = duplicate(
        &crew.caller, crew.table.run.listener, notification.id, <pid_t>notification.pid, call.descriptor
    )
    if descriptor < 0:
        if descriptor != -EBADF and descriptor != -ESRCH:
            note_refusal(crew, notification, call, CAUSE_UNREADABLE, -1, descriptor)
        return descriptor
    result = look_at(descriptor, &call.facts)
    if result == 0:
        call.hiding = hiding(load_paths(&crew.table.paths))
        call.ledger = crew.ledger
        result = read_target(crew.table.run, notification, call, descriptor)
        if result < 0 and call.endpoint.path_length > 0 and hides(load_paths(&crew.table.paths)):
            result = -ENOENT         # not what else there is at the name that was given
        if result == -EACCES or result == -EPERM:
            note_refusal(crew, notification, call, CAUSE_NO_RULE, -1, result)
    if result == NO_DECISION:
        result = call_now(crew, notification, call, descriptor)
    elif result == 0:
        result = judge(crew, notification, call, descriptor)
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    return result


cdef int64_t send_many(Crew *crew, const Notification *notification) noexcept nogil:
    """sendmmsg(2): one after the other, as far as it goes. Only the first may wait, or be asked about."""
    cdef SocketCall call
    cdef uint64_t count = notification.data.args[2]
    cdef int64_t result, done = 0
    count = <unsigned int>count
    if count > MAX_MESSAGES:
        count = MAX_MESSAGES
    while <uint64_t>done < count:
        read_registers(notification, &call)
        call.message += <uint64_t>done * MMSGHDR
        call.count_at += <uint64_t>done * MMSGHDR
        if done > 0:
            call.flags |= MSG_DONTWAIT
            call.may_hold = 0
        result = vet_call(crew, notification, &call)
        if result == HELD and done == 0:
            return HELD
        if result >= 0:
            result = write_count(<pid_t>notification.pid, &call, result)
        if result < 0:
            return result if done == 0 else done
        done += 1
    return done


cdef int64_t vet_socket(Crew *crew, const Notification *notification) noexcept nogil:
    """Decides a socket call and makes it. Returns its result (0 or more, or -errno), or HELD."""
    cdef SocketCall call
    crew.table.since_ns = now_ns()
    crew.table.tid = <pid_t>notification.pid
    if notification.data.nr == SYS_sendmmsg:
        return send_many(crew, notification)
    read_registers(notification, &call)
    return vet_call(crew, notification, &call)
