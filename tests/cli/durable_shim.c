/* Loaded before a tool (LD_PRELOAD): writes into $DURABLE_LOG what a crash of the machine would care
 * about, a line each: "write FILE", "sync FILE", "rename FROM TO". FILE is what the descriptor is
 * open on at that time; "sync FILE behind" is by another thread than the main one. A sync of a file whose
 * path has $DURABLE_FAIL in it fails. While the file $DURABLE_HOLD exists, but for a minute at most, a sync of
 * a checkpoint does not return. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void say(const char *line)
{
    const char *path = getenv("DURABLE_LOG");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (fd < 0) return;
    (void)!NEXT(write)(fd, line, strlen(line));
    close(fd);
}

static void say_fd(const char *what, int fd)
{
    char link[64], file[4096] = "", line[8192];
    struct stat info;
    if (fstat(fd, &info) || !(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, file, sizeof file - 1);
    if (n < 1 || file[0] != '/') return;
    const char *who = !strcmp(what, "sync") && gettid() != getpid() ? " behind" : "";
    snprintf(line, sizeof line, "%s %s%s\n", what, file, who);
    say(line);
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    ssize_t done = NEXT(write)(fd, bytes, n);
    say_fd("write", fd);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    ssize_t done = NEXT(pwrite)(fd, bytes, n, at);
    say_fd("write", fd);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
    ssize_t done = NEXT(pwrite64)(fd, bytes, n, at);
    say_fd("write", fd);
    return done;
}

static int path_has(int fd, const char *text)
{
    char link[64], file[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return text && readlink(link, file, sizeof file - 1) > 0 && strstr(file, text) != NULL;
}

static void hold(int fd)
{
    const char *held = getenv("DURABLE_HOLD");
    if (!held || !path_has(fd, "/step-")) return;
    for (int i = 0; i < 6000 && !access(held, F_OK); i++)
        usleep(10000);
}

int fsync(int fd)
{
    if (path_has(fd, getenv("DURABLE_FAIL"))) {
        errno = EIO;
        return -1;
    }
    hold(fd);
    int failed = NEXT(fsync)(fd);
    if (!failed) say_fd("sync", fd);
    return failed;
}

int fdatasync(int fd)
{
    int failed = NEXT(fdatasync)(fd);
    if (!failed) say_fd("sync", fd);
    return failed;
}

int rename(const char *from, const char *to)
{
    char line[8300], a[4096], b[4096];
    snprintf(a, sizeof a, "%s", from);
    if (!realpath(from, a)) snprintf(a, sizeof a, "%s", from);
    int failed = NEXT(rename)(from, to);
    if (!failed && realpath(to, b)) {
        snprintf(line, sizeof line, "rename %s %s\n", a, b);
        say(line);
    }
    return failed;
}
