from sandlock._linux cimport Notification
from sandlock._mediate cimport Mediator

cdef long list_directory(Mediator *mediator, const Notification *notification) noexcept nogil
