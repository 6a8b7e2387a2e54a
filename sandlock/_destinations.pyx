"""Where a socket call leads, and what the policy's rules say of it: deny wins over allow, and no rule is a denial or,
where somebody is there to be asked, a question. Values only; no system call is made here.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memset

from sandlock._pins cimport Hosts, Pins, find_hosts, has_host
from sandlock._run cimport NetRule, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UNIX

cdef extern from "<netinet/in.h>" nogil:
    const int AF_INET
    const int AF_INET6
    const int AF_UNIX
    const int IPPROTO_ICMP
    const int IPPROTO_ICMPV6
    const int IPPROTO_TCP
    const int IPPROTO_UDP

cdef enum:
    DOMAIN_PORT = 53


cdef int protocol_of(int domain, int number) noexcept nogil:
    """The bit of a socket's protocol (SO_DOMAIN, SO_PROTOCOL), 0 for one that no rule can be about."""
    if domain == AF_UNIX:
        return PROTOCOL_UNIX
    if domain != AF_INET and domain != AF_INET6:
        return 0
    if number == IPPROTO_TCP:
        return PROTOCOL_TCP
    if number == IPPROTO_UDP:
        return PROTOCOL_UDP
    if number == IPPROTO_ICMP or number == IPPROTO_ICMPV6:
        return PROTOCOL_ICMP
    return 0


cdef int is_zero(const uint8_t *bytes, int width) noexcept nogil:
    cdef int i
    for i in range(width):
        if bytes[i] != 0:
            return 0
    return 1


cdef int set_destination(Endpoint *endpoint, const Address *address) noexcept nogil:
    """The internet address that packets shall go to. IPv4 in IPv6 is IPv4 already. The unspecified address means this
    machine, and which address of it depends on what the socket is bound to (ip_route_output_key_hash_rcu in
    net/ipv4/route.c): it is made the loopback's. Returns whether it was, so that the caller acts on that."""
    endpoint.port = address.port
    endpoint.scope_id = address.scope_id
    endpoint.width = address.width
    memcpy(endpoint.bytes, address.bytes, 16)
    if endpoint.width > 0 and is_zero(endpoint.bytes, endpoint.width):
        memset(endpoint.bytes, 0, 16)
        if endpoint.width == 4:
            endpoint.bytes[0] = 127
            endpoint.bytes[3] = 1
        else:
            endpoint.bytes[15] = 1
        return 1
    return 0


cdef int within(const uint8_t *bytes, const uint8_t *network, int prefix) noexcept nogil:
    """Whether the first `prefix` bits are the same."""
    cdef int whole = prefix // 8, rest = prefix % 8
    if memcmp(bytes, network, whole) != 0:
        return 0
    return rest == 0 or (bytes[whole] ^ network[whole]) >> (8 - rest) == 0


cdef int names_path(const NetRule *rule, const Endpoint *endpoint) noexcept nogil:
    """The rule's path is that of the socket, or of a directory above it; an abstract name has nothing below it."""
    if rule.path == NULL:
        return 1
    if rule.abstract != endpoint.abstract or rule.path_length > endpoint.path_length:
        return 0
    if memcmp(rule.path, endpoint.path, rule.path_length) != 0:
        return 0
    if rule.path_length == endpoint.path_length:
        return 1
    return not rule.abstract and endpoint.path[rule.path_length] == 47    # '/'


cdef int matches(const NetRule *rule, const Pins *pins, const Hosts *hosts, const Endpoint *endpoint) noexcept nogil:
    if not rule.protocols & endpoint.protocol:
        return 0
    if endpoint.protocol == PROTOCOL_UNIX:
        return names_path(rule, endpoint)
    if endpoint.protocol != PROTOCOL_ICMP and not rule.first_port <= endpoint.port <= rule.last_port:
        return 0
    if rule.host != 0:
        # Where an address found no room among the pins, who is denied by name could be anybody.
        return pins != NULL and (has_host(hosts, rule.host) or (pins.full and not rule.allow))
    return rule.width == 0 or (rule.width == endpoint.width and within(endpoint.bytes, rule.bytes, rule.prefix))


cdef int is_lookup(const Endpoint *endpoint) noexcept nogil:
    """Whether this is where programs ask for the addresses of names."""
    return endpoint.protocol == PROTOCOL_UDP and endpoint.port == DOMAIN_PORT and (
        endpoint.operation == OPERATION_CONNECT or endpoint.operation == OPERATION_SEND
    )


cdef int decide(
    const NetRules *rules, const Pins *pins, int asks, const Endpoint *endpoint, int *rule
) noexcept nogil:
    """Returns an enum Decision, and the number of the rule that decided, -1 for none. `pins` may be NULL. `asks`: what
    no rule decides is asked about."""
    cdef const NetRule *each
    cdef Hosts hosts
    cdef int binds = endpoint.operation == OPERATION_BIND or endpoint.operation == OPERATION_LISTEN
    cdef int i, allowed = 0
    rule[0] = -1
    if pins != NULL:
        find_hosts(pins, endpoint.bytes, endpoint.width, &hosts)
    for i in range(rules.count):
        each = &rules.rules[i]
        if each.binds != binds or not matches(each, pins, &hosts, endpoint):
            continue
        if not each.allow:
            rule[0] = rules.base + i
            return DECIDED_DENY
        if not allowed:
            allowed = 1
            rule[0] = rules.base + i
    if allowed:
        return DECIDED_ALLOW
    # A port of the kernel's choice is what sending without bind gets as well; to listen there is decided for itself.
    if endpoint.operation == OPERATION_BIND and endpoint.protocol != PROTOCOL_UNIX and endpoint.port == 0:
        return DECIDED_ALLOW
    return DECIDED_ASK if asks and endpoint.protocol != 0 else DECIDED_DENY
