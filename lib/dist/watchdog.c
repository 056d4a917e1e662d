/* One thread on every rank that keeps in touch by TCP. All are connected with rank 0, which judges
 * the others. Rank 0 is judged by the others, by rank 1 first. The thread never waits for a lock of the
 * threads it watches, and calls no MPI but the last MPI_Abort.
 *
 *   died    the connection closed without a goodbye
 *   froze   nothing heard for `silent` seconds
 *   stuck   somebody has waited for `stuck` seconds in a collective that this rank has not begun
 *
 * A launcher that ends the job for a lost host leaves time only to name the silent rank.
 *
 * A rank whose sums on the GPU have failed reports this itself.
 *
 * The ranks from 2 on are connected with rank 1, too, so that it can tell them it has ended the job.
 *
 * The rank that judges prints one line, tells the others, and ends the job by MPI_Abort. The others
 * exit silently. (MPICH's mpiexec may kill all ranks of its host before one has printed.) A process
 * that was itself stopped for a while judges nobody: it heard nothing because it did not listen. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/signal.h"
#include "dist/internal.h"

enum {
    POLL_MS = 100,
    BEAT_MS = 1000,
    DEFER_MS = 200,      /* when all ranks fail alike, rank 0 shall report it */
    STALL_MS = 2500,     /* a longer pause of this thread is not counted as silence of others */
    QUIET_MS = 10000,    /* no line for so long after a long pause */
    CONNECT_MS = 2000,   /* for each address */
    FOLLOW_MS = 600,     /* to wait for MPI_Abort to end this rank, before it exits */
    ABORT_MS = 1000,     /* for the communication thread to call MPI_Abort */
    SUCCESSOR_MS = 5000, /* rank r+1 judges rank 0 this much later than rank r, up to rank 4 */
    PRINT_MS = 150,      /* for the launcher to forward the line: MPICH's drops it at MPI_Abort */
    STOPPING_MS = 250,   /* a death is judged this much later while the job is being ended */
    GPU_MS = 3000,       /* a rank that died is named before those whose sums it broke */
    MOST_ADDRESSES = 8,
};

enum kind { KIND_HELLO = 1, KIND_BEAT, KIND_BYE, KIND_FAILED, KIND_VERDICT };

struct note {
    uint32_t kind;
    int32_t rank, code;
    int64_t step, entered, waiting_in, waited_ms;
    uint64_t token[2];
    char doing[64], text[384];
};

/* How to reach rank 0, or rank 1. */
struct meeting {
    uint64_t token[2];
    uint32_t addresses[MOST_ADDRESSES]; /* network order */
    int32_t count;
    uint16_t port; /* network order; 0: it does not listen */
};

struct link {
    int fd;
    bool bye;
    int64_t heard, lost; /* ms; lost: when the connection closed, 0 if it has not */
    struct note beat;
    size_t filled;
    char bytes[sizeof(struct note)]; /* of a note that has come in part */
};

struct mabn_watchdog {
    struct mabn_comm *comm;
    pthread_t thread;
    int listener;
    struct meeting meeting;
    struct link *links; /* rank 0: (ranks), its own unused; others: (1) */
    struct pollfd *polls;
    int count;
    int deputy; /* ranks 2 and more: to rank 1, which ends the job if rank 0 is lost; -1: none */
    int *followers;              /* rank 1: (ranks), from 2 on; -1: none */
    int64_t silent_ms, stuck_ms; /* 0: off */
    int64_t last_turn, last_beat, last_step, quiet_until, gpu_failed_at;
    pid_t parent;
    int leaving, failed; /* MABN_STORE */
    int fail_code;
    char fail_text[384];
};

/* ---- notes ---- */

static struct note my_note(const struct mabn_watchdog *w, enum kind kind)
{
    struct mabn_watched *watched = &w->comm->watched;
    const char *doing = MABN_LOAD(watched->doing);
    struct note note;
    memset(&note, 0, sizeof note);
    note.kind = kind;
    note.rank = w->comm->rank;
    note.step = MABN_LOAD(watched->step);
    note.entered = MABN_LOAD(watched->entered);
    note.waiting_in = MABN_LOAD(watched->waiting_in);
    if (note.waiting_in) note.waited_ms = mabn_dist_now_ms() - MABN_LOAD(watched->waiting_since);
    memcpy(note.token, w->meeting.token, sizeof note.token);
    snprintf(note.doing, sizeof note.doing, "%s", doing ? doing : "");
    return note;
}

static void send_note(int fd, const struct note *note)
{
    if (fd >= 0 && send(fd, note, sizeof *note, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return;
}

static void send_all(struct mabn_watchdog *w, const struct note *note)
{
    for (int i = 0; i < w->count; i++)
        send_note(w->links[i].fd, note);
}

/* ---- the end ---- */

static void print_line(const char *text)
{
    char line[600];
    int n = snprintf(line, sizeof line, "%s: %s\n", mabn_log_program(), text);
    if (n >= (int)sizeof line) n = (int)sizeof line - 1;
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return;
}

static void sleep_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* Another rank ends the job. */
MABN_NORETURN static void follow(int code)
{
    sleep_ms(FOLLOW_MS);
    _exit(code);
}

MABN_NORETURN static void end_job(struct mabn_watchdog *w, int code, const char *text)
{
    struct rlimit none = {0, 0};
    struct note verdict = my_note(w, KIND_VERDICT);
    verdict.code = code;
    const bool speaks = mabn_dist_now_ms() >= w->quiet_until;
    setrlimit(RLIMIT_CORE, &none); /* an MPI_Abort has been seen to crash */
    if (speaks) print_line(text);
    /* At once: the launcher may kill this rank next, and the others shall not give its death a line, too. */
    if (w->comm->rank == 0) send_all(w, &verdict);
    for (int r = 2; w->followers && r < w->comm->ranks; r++)
        send_note(w->followers[r], &verdict);
    if (speaks) sleep_ms(PRINT_MS);
    mabn_worker_abort(w->comm, code);
    sleep_ms(ABORT_MS);
    w->comm->mpi->abort(code);
    _exit(code);
}

static const struct note *last_beat_of(struct mabn_watchdog *w, int rank, struct note *mine)
{
    if (rank == w->comm->rank) {
        *mine = my_note(w, KIND_BEAT);
        return mine;
    }
    return &w->links[w->comm->rank ? 0 : rank].beat;
}

/* "rank 2 on h2 (pid 14862) died at step 10, reading data" */
static void describe(struct mabn_watchdog *w, int rank, const char *verb, const char *more,
                     char text[400])
{
    const struct mabn_peer *peer = &w->comm->peers[rank];
    struct note mine;
    const struct note *beat = last_beat_of(w, rank, &mine);
    const char *doing = beat->waiting_in ? "waiting for others" : beat->doing;
    snprintf(text, 400, "rank %d on %s (pid %lld) %s at step %lld%s%s%s", rank, peer->host,
             (long long)peer->pid, verb, (long long)beat->step, *doing ? ", " : "", doing, more);
}

MABN_NORETURN static void judge(struct mabn_watchdog *w, int rank, const char *verb,
                                const char *more)
{
    char text[400];
    describe(w, rank, verb, more, text);
    end_job(w, MABN_EXIT_LOST, text);
}

/* ---- hearing ---- */

static int rank_of(const struct mabn_watchdog *w, int index)
{
    return w->comm->rank ? 0 : index;
}

static void take(struct mabn_watchdog *w, int index, const struct note *note)
{
    struct link *link = &w->links[index];
    switch (note->kind) {
    case KIND_BEAT:
        link->beat = *note;
        break;
    case KIND_BYE:
        link->bye = true;
        break;
    case KIND_VERDICT:
        follow(note->code);
    case KIND_FAILED:
        if (w->comm->rank == 0) end_job(w, note->code, note->text);
        break;
    }
}

static void lost(struct mabn_watchdog *w, int index)
{
    struct link *link = &w->links[index];
    close(link->fd);
    link->fd = -1;
    if (!link->bye && !MABN_LOAD(w->leaving)) link->lost = mabn_dist_now_ms();
}

static void hear(struct mabn_watchdog *w, int index)
{
    struct link *link = &w->links[index];
    for (;;) {
        ssize_t n = recv(link->fd, link->bytes + link->filled, sizeof link->bytes - link->filled,
                         MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
        if (n <= 0) {
            lost(w, index);
            return;
        }
        link->heard = mabn_dist_now_ms();
        link->filled += (size_t)n;
        if (link->filled < sizeof link->bytes) continue;
        struct note note;
        memcpy(&note, link->bytes, sizeof note);
        link->filled = 0;
        take(w, index, &note);
    }
}

/* Only a verdict ever comes from rank 1, and it judges only rank 0. */
static void hear_deputy(struct mabn_watchdog *w)
{
    struct note note;
    if (w->deputy < 0) return;
    ssize_t n = recv(w->deputy, &note, sizeof note, MSG_DONTWAIT | MSG_PEEK);
    if (n == (ssize_t)sizeof note && note.kind == KIND_VERDICT) follow(note.code);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))) return;
    close(w->deputy);
    w->deputy = -1;
}

/* ---- judging ---- */

static int64_t successor_delay(const struct mabn_watchdog *w, int64_t each)
{
    int before = w->comm->rank ? w->comm->rank - 1 : 0;
    return each * (before < 3 ? before : 3);
}

/* A launcher that ends the job sends SIGTERM and a second later kills the ranks, one shortly after the
 * other. The rank that it kills first is not to blame. So after SIGTERM a rank does not speak at once, but
 * within the half second that Open MPI 5 leaves the others after a rank's death. */
static void check_deaths(struct mabn_watchdog *w, int64_t now)
{
    const int64_t delay =
        successor_delay(w, SUCCESSOR_MS) + (mabn_stop_requested() ? STOPPING_MS : 0);
    for (int i = 0; i < w->count; i++)
        if (w->links[i].lost && now - w->links[i].lost >= delay)
            judge(w, rank_of(w, i), "died", "");
}

/* While the job is being ended, a rank that has been silent for most of its limit is named, but not
 * judged: mpirun may have seen before us that a host is cut off, and leaves us a second. */
static void name_silent(struct mabn_watchdog *w, int index, int64_t now, int64_t silence)
{
    char more[64], text[400];
    if (!mabn_stop_requested() || now < w->quiet_until) return;
    snprintf(more, sizeof more, ": nothing heard of it for %lld s", (long long)silence / 1000);
    describe(w, rank_of(w, index), "fell silent", more, text);
    print_line(text);
    w->quiet_until = now + QUIET_MS;
}

static void check_silence(struct mabn_watchdog *w, int64_t now)
{
    const int64_t delay = successor_delay(w, SUCCESSOR_MS);
    char more[64];
    snprintf(more, sizeof more, ": nothing heard of it for %lld s", (long long)w->silent_ms / 1000);
    if (!w->silent_ms) return;
    for (int i = 0; i < w->count; i++) {
        struct link *link = &w->links[i];
        if (link->fd < 0 || link->bye) continue;
        const int64_t silence = now - link->heard - delay;
        if (silence > w->silent_ms) judge(w, rank_of(w, i), "froze", more);
        if (silence > w->silent_ms * 6 / 10) name_silent(w, i, now, now - link->heard);
    }
}

/* Rank 0: has a rank waited too long, and for which one? */
static void check_waiting(struct mabn_watchdog *w)
{
    struct note mine;
    int64_t waited_in = 0, least = INT64_MAX;
    int last = 0;
    char more[96];
    for (int r = 0; r < w->comm->ranks; r++) {
        const struct note *beat = last_beat_of(w, r, &mine);
        if (beat->waiting_in && beat->waited_ms > w->stuck_ms && beat->waiting_in > waited_in)
            waited_in = beat->waiting_in;
        if (beat->entered < least) {
            least = beat->entered;
            last = r;
        }
    }
    if (!waited_in) return;
    snprintf(more, sizeof more, ": others have waited for it for %lld s",
             (long long)w->stuck_ms / 1000);
    if (least < waited_in) judge(w, last, "is stuck", more);
    end_job(w, MABN_EXIT_LOST, "all ranks wait for each other: the network or MPI is stuck");
}

/* Do not count the time in which this process was stalled. Count all other time: an overloaded machine
 * stalls every few seconds, and starting anew after each stall would never notice a lost rank. */
static void forgive(struct mabn_watchdog *w, int64_t now)
{
    int64_t stalled = now - w->last_turn, half = w->silent_ms / 2;
    if (stalled > STALL_MS || (half && stalled > half)) {
        for (int i = 0; i < w->count; i++)
            if ((w->links[i].heard += stalled) > now) w->links[i].heard = now;
        /* The others may have ended the job meanwhile, with a line of their own. */
        if (half && stalled > half) w->quiet_until = now + QUIET_MS;
    }
    w->last_turn = now;
}

static void beat(struct mabn_watchdog *w, int64_t now)
{
    int64_t step = MABN_LOAD(w->comm->watched.step);
    if (now - w->last_beat < BEAT_MS && step == w->last_step) return;
    struct note note = my_note(w, KIND_BEAT);
    send_all(w, &note);
    w->last_beat = now;
    w->last_step = step;
}

static void send_failure(struct mabn_watchdog *w)
{
    struct note note = my_note(w, KIND_FAILED);
    note.code = w->fail_code;
    if (w->comm->rank == 0) end_job(w, w->fail_code, w->fail_text);
    snprintf(note.text, sizeof note.text, "%s", w->fail_text);
    send_all(w, &note);
    sleep_ms(FOLLOW_MS + ABORT_MS);
    _exit(w->fail_code);
}

/* Asks only if no other thread is in NCCL: this thread never waits for a lock. */
static void check_gpu(struct mabn_watchdog *w, int64_t now)
{
    struct mabn_comm *comm = w->comm;
    char said[256];
    if (pthread_mutex_trylock(&comm->gpu_lock)) return;
    const bool failed = comm->gpu_fault && comm->gpu_fault(comm->gpu_context, said, sizeof said);
    pthread_mutex_unlock(&comm->gpu_lock);
    if (!failed) w->gpu_failed_at = 0;
    if (failed && !w->gpu_failed_at) w->gpu_failed_at = now;
    if (!failed || now - w->gpu_failed_at < GPU_MS) return;
    snprintf(w->fail_text, sizeof w->fail_text, "rank %d on %s: %s", comm->rank,
             comm->peers[comm->rank].host, said);
    w->fail_code = MABN_EXIT_LOST;
    send_failure(w);
}

static void *watch(void *argument)
{
    struct mabn_watchdog *w = (struct mabn_watchdog *)argument;
    while (MABN_LOAD(w->leaving) < 2) {
        for (int i = 0; i < w->count; i++)
            w->polls[i] = (struct pollfd){.fd = w->links[i].fd, .events = POLLIN};
        poll(w->polls, (nfds_t)w->count, POLL_MS);
        int64_t now = mabn_dist_now_ms();
        forgive(w, now);
        for (int i = 0; i < w->count; i++)
            if (w->links[i].fd >= 0 && w->polls[i].revents) hear(w, i);
        hear_deputy(w);
        if (MABN_LOAD(w->failed)) send_failure(w);
        if (MABN_LOAD(w->leaving)) continue;
        beat(w, now);
        check_deaths(w, now);
        check_silence(w, now);
        check_gpu(w, now);
        if (w->comm->rank == 0 && w->stuck_ms) check_waiting(w);
        if (getppid() != w->parent) follow(MABN_EXIT_LOST); /* the launcher is gone */
    }
    return NULL;
}

/* ---- meeting ---- */

static void tune_socket(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void my_addresses(struct meeting *m)
{
    struct ifaddrs *list;
    if (getifaddrs(&list)) return;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || m->count == MOST_ADDRESSES ||
            !(i->ifa_flags & IFF_UP) || i->ifa_flags & IFF_LOOPBACK)
            continue;
        m->addresses[m->count++] =
            ((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr.s_addr;
    }
    freeifaddrs(list);
}

static bool one_host(const struct mabn_comm *comm)
{
    return comm->local_ranks == comm->ranks;
}

static void open_listener(struct mabn_watchdog *w, struct meeting *m)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(one_host(w->comm) ? INADDR_LOOPBACK : INADDR_ANY);
    w->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (w->listener < 0) return;
    if (bind(w->listener, (struct sockaddr *)&address, sizeof address) ||
        listen(w->listener, w->comm->ranks) ||
        getsockname(w->listener, (struct sockaddr *)&address, &size))
        return;
    m->port = address.sin_port;
    my_addresses(m);
    if (getrandom(m->token, sizeof m->token, 0) < 0)
        m->token[0] = (uint64_t)mabn_dist_now_ms() ^ (uint64_t)getpid() << 32;
}

static int connect_to(uint32_t address, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port};
    to.sin_addr.s_addr = address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t size = sizeof error;
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (poll(&p, 1, CONNECT_MS) < 1) error = ETIMEDOUT;
        if (!error) getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (!error) return fd;
    close(fd);
    return -1;
}

/* Connect to rank `to` at the first of its addresses that answers; -1 if none does. */
static int call_in(const struct mabn_watchdog *w, int to, const struct meeting *m)
{
    struct note hello = my_note(w, KIND_HELLO);
    int fd = -1;
    if (!m->port) return -1;
    if (!strcmp(w->comm->peers[to].host, w->comm->peers[w->comm->rank].host))
        fd = connect_to(htonl(INADDR_LOOPBACK), m->port);
    for (int i = 0; i < m->count && fd < 0; i++)
        fd = connect_to(m->addresses[i], m->port);
    if (fd < 0) return -1;
    tune_socket(fd);
    if (send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == (ssize_t)sizeof hello) return fd;
    close(fd);
    return -1;
}

/* A caller without the token is not a rank of this job. */
static bool receive_hello(struct mabn_watchdog *w, int fd)
{
    struct note hello;
    struct timeval limit = {2, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (recv(fd, &hello, sizeof hello, MSG_WAITALL) != (ssize_t)sizeof hello) return false;
    if (hello.kind != KIND_HELLO || memcmp(hello.token, w->meeting.token, sizeof hello.token) ||
        hello.rank <= w->comm->rank || hello.rank >= w->comm->ranks)
        return false;
    int *place = w->followers ? &w->followers[hello.rank] : &w->links[hello.rank].fd;
    if (*place >= 0) return false;
    tune_socket(fd);
    *place = fd;
    return true;
}

static void receive_calls(struct mabn_watchdog *w, int expected)
{
    struct pollfd p = {.fd = w->listener, .events = POLLIN};
    while (expected > 0 && poll(&p, 1, CONNECT_MS) > 0) {
        int fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        if (receive_hello(w, fd))
            expected--;
        else
            close(fd);
    }
}

/* The kernel completes the connections; they are accepted when all ranks have tried. */
static mabn_status call_in_all(struct mabn_watchdog *w, struct meeting *meetings)
{
    struct mabn_comm *comm = w->comm;
    struct meeting mine = {.port = 0};
    if (comm->rank == 0 || w->followers) open_listener(w, &mine);
    MABN_TRY(mabn_comm_all_gather(comm, &mine, sizeof mine, meetings));
    w->meeting = meetings[0];
    if (comm->rank > 0) w->links[0].fd = call_in(w, 0, &meetings[0]);
    if (comm->rank > 1) w->deputy = call_in(w, 1, &meetings[1]);
    return MABN_OK;
}

static mabn_status meet(struct mabn_watchdog *w)
{
    struct mabn_comm *comm = w->comm;
    const size_t ranks = (size_t)comm->ranks;
    struct meeting *meetings = (struct meeting *)mabn_xcalloc(ranks, sizeof *meetings);
    int64_t *all = (int64_t *)mabn_xcalloc(2 * ranks, sizeof *all);
    mabn_status status = call_in_all(w, meetings);
    const int64_t called[2] = {comm->rank > 0 && w->links[0].fd >= 0, w->deputy >= 0};
    int expected = 0;
    free(meetings);
    if (!status) status = mabn_comm_all_gather(comm, called, sizeof called, all);
    for (size_t r = 0; r < ranks && comm->rank < 2; r++)
        expected += (int)all[2 * r + (size_t)comm->rank];
    free(all);
    MABN_TRY(status);
    if (w->listener >= 0) receive_calls(w, expected);
    if (comm->rank && !called[0])
        mabn_warn(
            "cannot reach rank 0 on %s by TCP: should a rank die or freeze, nobody may notice",
            comm->peers[0].host);
    return MABN_OK;
}

static mabn_status start_thread(struct mabn_watchdog *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return errno ? mabn_fail_errno("cannot start a thread") : MABN_OK;
}

mabn_status mabn_watchdog_start(struct mabn_comm *comm)
{
    struct mabn_watchdog *w = (struct mabn_watchdog *)mabn_xcalloc(1, sizeof *w);
    w->comm = comm;
    w->count = comm->rank ? 1 : comm->ranks;
    w->links = (struct link *)mabn_xcalloc((size_t)w->count, sizeof *w->links);
    w->polls = (struct pollfd *)mabn_xcalloc((size_t)w->count, sizeof *w->polls);
    w->listener = w->deputy = -1;
    if (comm->rank == 1 && comm->ranks > 2)
        w->followers = (int *)mabn_xmalloc((size_t)comm->ranks * sizeof *w->followers);
    for (int r = 0; w->followers && r < comm->ranks; r++)
        w->followers[r] = -1;
    w->parent = getppid();
    for (int i = 0; i < w->count; i++)
        w->links[i].fd = -1;
    w->silent_ms = comm->silent_ms;
    w->stuck_ms = comm->stuck_ms;
    MABN_TRY(meet(w));
    for (int i = 0; i < w->count; i++)
        w->links[i].heard = mabn_dist_now_ms();
    if (w->listener >= 0) close(w->listener);
    w->last_turn = mabn_dist_now_ms();
    comm->watchdog = w;
    return start_thread(w);
}

void mabn_watchdog_fail(struct mabn_comm *comm, int exit_code, const char *message)
{
    struct mabn_watchdog *w = comm->watchdog;
    w->fail_code = exit_code;
    if (comm->rank)
        snprintf(w->fail_text, sizeof w->fail_text, "rank %d on %s: %s", comm->rank,
                 comm->peers[comm->rank].host, message);
    else
        snprintf(w->fail_text, sizeof w->fail_text, "%s", message);
    if (comm->rank) sleep_ms(DEFER_MS);
    MABN_STORE(w->failed, 1);
    sleep_ms(2 * (FOLLOW_MS + ABORT_MS));
    _exit(exit_code);
}

void mabn_watchdog_bye(struct mabn_comm *comm)
{
    if (!comm->watchdog) return;
    struct note bye = my_note(comm->watchdog, KIND_BYE);
    MABN_STORE(comm->watchdog->leaving, 1);
    send_all(comm->watchdog, &bye);
}

void mabn_watchdog_free(struct mabn_comm *comm)
{
    struct mabn_watchdog *w = comm->watchdog;
    if (!w) return;
    MABN_STORE(w->leaving, 2);
    pthread_join(w->thread, NULL);
    for (int i = 0; i < w->count; i++)
        if (w->links[i].fd >= 0) close(w->links[i].fd);
    for (int r = 2; w->followers && r < comm->ranks; r++)
        if (w->followers[r] >= 0) close(w->followers[r]);
    if (w->deputy >= 0) close(w->deputy);
    free(w->followers);
    free(w->links);
    free(w->polls);
    free(w);
    comm->watchdog = NULL;
}
