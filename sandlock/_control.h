/* Receiving on the control socket of a run. */
#ifndef SANDLOCK_CONTROL_H
#define SANDLOCK_CONTROL_H

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
/* One message, and the descriptor that came with it (or -1). As recvmsg(2). */
static inline ssize_t sandlock_receive(int socket, void *buffer, size_t size, int flags, int *descriptor)
{
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec span = {buffer, size};
    struct msghdr parcel = {0};
    struct cmsghdr *rights;
    ssize_t length;
    parcel.msg_iov = &span;
    parcel.msg_iovlen = 1;
    parcel.msg_control = &control;
    parcel.msg_controllen = sizeof control;
    length = recvmsg(socket, &parcel, flags | MSG_CMSG_CLOEXEC);
    *descriptor = -1;
    rights = length < 0 ? NULL : CMSG_FIRSTHDR(&parcel);
    if (rights && rights->cmsg_type == SCM_RIGHTS && rights->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(descriptor, CMSG_DATA(rights), sizeof(int));
    return length;
}

#endif
