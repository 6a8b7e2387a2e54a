/* What the launch and the run's init tell the host, one SOCK_SEQPACKET message each; and what the host tells the init:
 * an int, an enum command, or the end of its side, which means "kill". */
#ifndef SANDLOCK_MESSAGE_H
#define SANDLOCK_MESSAGE_H

enum message_kind {
    MESSAGE_LAUNCHED = 1, /* the program was executed; pid is its process */
    MESSAGE_FAILED = 2,   /* a step of the launch failed; nothing of the program ran */
    MESSAGE_MAP_IDS = 3,  /* the child waits for its user and group maps */
    MESSAGE_ENDED = 4,    /* the whole tree is gone */
    MESSAGE_PAUSED = 5,   /* COMMAND_PAUSE was carried out, or not: error */
    MESSAGE_RESUMED = 6   /* the same of COMMAND_RESUME */
};

enum command {
    COMMAND_PAUSE = 1,    /* stop all tasks of the tree */
    COMMAND_RESUME = 2    /* let them go on */
};

enum end_reason {
    END_EXITED = 0,   /* the program ended by itself */
    END_KILLED = 1,   /* the host closed its side of the control socket */
    END_TIMEOUT = 2,  /* the deadline passed */
    END_HOST_GONE = 3 /* the host process died (nobody reads this one) */
};

struct message {
    int kind;
    int pid;
    int step;
    int error;
    int subject;   /* index of the Landlock rule or rlimit that failed, or -1 */
    int status;    /* wait status of the program (MESSAGE_ENDED) */
    int reason;    /* enum end_reason */
    int survivors; /* 1: some task could not be killed in time (uninterruptible sleep) */
    long long user_microseconds;
    long long system_microseconds;
};

#endif
