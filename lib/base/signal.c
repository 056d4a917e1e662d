#include "base/signal.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include <limits.h>

/* Temporary files live in a fixed table of fixed-size names, because the handler that unlinks them
 * may not touch the heap. A slot is claimed by a compare-and-swap and published last. */
enum { SLOTS = 32 };
enum slot_state { SLOT_FREE, SLOT_CLAIMED, SLOT_LIVE };
static struct {
    _Atomic int state;
    char path[PATH_MAX];
} slots[SLOTS];

static volatile sig_atomic_t stop_signal, save_flag, graceful;

int mabn_tempfile_register(const char *path)
{
    if (strlen(path) >= PATH_MAX) return -1;
    for (int i = 0; i < SLOTS; i++) {
        int expected = SLOT_FREE;
        if (!atomic_compare_exchange_strong(&slots[i].state, &expected, SLOT_CLAIMED)) continue;
        strcpy(slots[i].path, path);
        atomic_store(&slots[i].state, SLOT_LIVE);
        return i;
    }
    return -1;
}

void mabn_tempfile_forget(int slot)
{
    if (slot >= 0 && slot < SLOTS) atomic_store(&slots[slot].state, SLOT_FREE);
}

static void unlink_all(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (atomic_load(&slots[i].state) == SLOT_LIVE) unlink(slots[i].path);
}

static void handle_stop(int number)
{
    if (graceful && number != SIGHUP && !(stop_signal && number == SIGINT)) {
        stop_signal = number;
        return;
    }
    unlink_all();
    signal(number, SIG_DFL);
    raise(number);
}

static void handle_save(int number)
{
    (void)number;
    save_flag = 1;
}

static void install(int number, void (*handler)(int))
{
    struct sigaction action, old;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    /* nohup and background shells ask for a signal to be ignored: respect that. */
    if (!sigaction(number, NULL, &old) && old.sa_handler == SIG_IGN) return;
    sigaction(number, &action, NULL);
}

void mabn_signals_install(void)
{
    install(SIGINT, handle_stop);
    install(SIGTERM, handle_stop);
    install(SIGHUP, handle_stop);
}

void mabn_signals_graceful(void)
{
    graceful = 1;
    install(SIGUSR1, handle_save);
}

int mabn_stop_requested(void)
{
    return stop_signal;
}

bool mabn_save_requested(void)
{
    if (!save_flag) return false;
    save_flag = 0;
    return true;
}

const char *mabn_signal_name(int number)
{
    switch (number) {
    case SIGINT:
        return "SIGINT";
    case SIGTERM:
        return "SIGTERM";
    case SIGHUP:
        return "SIGHUP";
    case SIGUSR1:
        return "SIGUSR1";
    }
    return "signal";
}
