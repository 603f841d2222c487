/* Faults of a disk, for the process that preloads this: LD_PRELOAD=shim.so, then by the environment

     FAULTS_UNDER  only files under this folder
     FAULTS_FILE   only files whose path holds this text; empty: all
     FAULTS_CALL   write, fsync, rename, link, unlink, open, or any
     FAULTS_AT     the number of the call that is hit, from 1; with "+" behind it that one and all later
     FAULTS_DO     kill: SIGKILL in the middle of the call; else the errno that it fails with
     FAULTS_LOG    every such call is written to this file, one a line

   faults_arm() reads them anew, for a process that was forked. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char under[4096], file[1024], call_name[16];
static long at, seen;
static int later, action, log_fd = -1;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void copy(char *into, size_t size, const char *name) {
    const char *value = getenv(name);
    snprintf(into, size, "%s", value ? value : "");
}

__attribute__((constructor)) void faults_arm(void) {
    char number[32], what[32], log[4096];
    copy(under, sizeof under, "FAULTS_UNDER");
    copy(file, sizeof file, "FAULTS_FILE");
    copy(call_name, sizeof call_name, "FAULTS_CALL");
    copy(number, sizeof number, "FAULTS_AT");
    copy(what, sizeof what, "FAULTS_DO");
    copy(log, sizeof log, "FAULTS_LOG");
    seen = 0;
    at = atol(number);
    later = strchr(number, '+') != NULL;
    action = strcmp(what, "kill") == 0 ? -1 : atoi(what);
    if (log_fd >= 0) close(log_fd);
    log_fd = log[0] ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
}

/* 0: nothing; -1: kill; else an errno. */
static int hit(const char *name, const char *path, const char *other) {
    if (!under[0] || !path || strncmp(path, under, strlen(under)) != 0) return 0;
    if (log_fd >= 0) {
        char line[9000];
        struct stat found;
        long inode = stat(path, &found) == 0 ? (long)found.st_ino : 0;
        int length = snprintf(line, sizeof line, "%s\t%ld\t%s\t%s\n", name, inode, path, other ? other : "");
        REAL(ssize_t, "write", int, const void *, size_t);
        real(log_fd, line, (size_t)length);
    }
    if (!at || (file[0] && !strstr(path, file) && !(other && strstr(other, file)))) return 0;
    if (strcmp(call_name, "any") != 0 && strcmp(call_name, name) != 0) return 0;
    seen++;
    return seen == at || (later && seen > at) ? action : 0;
}

static int hit_descriptor(const char *name, int descriptor) {
    char link[64], path[4096];
    if (!under[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return hit(name, path, NULL);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int failed(int found) {
    errno = found;
    return -1;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int found = hit_descriptor("write", descriptor);
    if (found < 0) {
        real(descriptor, data, size / 2);
        die();
    }
    return found ? failed(found) : real(descriptor, data, size);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    int found = hit_descriptor("write", descriptor);
    if (found < 0) {
        real(descriptor, parts, count / 2);
        die();
    }
    return found ? failed(found) : real(descriptor, parts, count);
}

int fsync(int descriptor) {
    REAL(int, "fsync", int);
    int found = hit_descriptor("fsync", descriptor);
    if (found < 0) die();
    return found ? failed(found) : real(descriptor);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    int found = hit("rename", from, to);
    if (found < 0) die();
    return found ? failed(found) : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    int found = hit("link", from, to);
    if (found < 0) die();
    return found ? failed(found) : real(from, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int found = hit("unlink", path, NULL);
    if (found < 0) die();
    return found ? failed(found) : real(path);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        REAL(int, #name, const char *, int, ...); \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR)) { \
            int found = hit("open", path, NULL); \
            if (found < 0) die(); \
            if (found) return failed(found); \
        } \
        return real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
