/* What a disk can do to a program: calls on files below one folder are counted, and made to fail,
 * to stop half-way, to kill the process, or to be recorded.
 *
 * Loaded with LD_PRELOAD; armed through the functions shim_*, by ctypes. Linux and glibc.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum mode { OFF, ONCE, FROM_THEN_ON, SHORT, KILL_BEFORE, KILL_TORN, KILL_AFTER, COUNT };
enum op { WRITE, TRUNCATE, SYNC, CREATE, RENAME, LINK, UNLINK, MARK };

static char folder[4096];
static size_t folder_size;
static long target_call, calls;
static int failure, mode = OFF, failing, log_fd = -1;
static char failed_call[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct record { uint32_t op, flags; uint64_t inode, offset, size; uint32_t path_size, other_size; };

void shim_arm(const char *path, long call, int error, int how) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_size = strlen(folder);
    target_call = call; failure = error; mode = how; calls = 0; failing = 0; failed_call[0] = 0;
}
void shim_disarm(void) { mode = OFF; }
long shim_calls(void) { return calls; }
const char *shim_failed(void) { return failed_call; }

static void put(const void *data, size_t size) {
    const char *at = data;
    while (size) {
        long done = syscall(SYS_write, log_fd, at, size);
        if (done <= 0) return;
        at += done; size -= (size_t)done;
    }
}
static void note(int op, uint64_t inode, uint64_t offset, const void *data, uint64_t size,
                 const char *path, const char *other, uint32_t flags) {
    if (log_fd < 0) return;
    int saved = errno;
    struct record head = { (uint32_t)op, flags, inode, offset, size,
                           path ? (uint32_t)strlen(path) : 0, other ? (uint32_t)strlen(other) : 0 };
    pthread_mutex_lock(&lock);
    put(&head, sizeof head);
    if (path) put(path, head.path_size);
    if (other) put(other, head.other_size);
    if (op == WRITE) put(data, size);
    pthread_mutex_unlock(&lock);
    errno = saved;
}
void shim_record(const char *path, const char *log) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_size = strlen(folder);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    mode = COUNT;
}
void shim_mark(uint64_t value) { note(MARK, 0, value, 0, 0, 0, 0, 0); }

static int below(const char *path) {
    return mode != OFF && folder_size && !strncmp(path, folder, folder_size);
}
/* Path of an open file, if it is below the folder. */
static int path_of(int fd, char *path, size_t size) {
    if (mode == OFF) return 0;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, name, path, size - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}
static uint64_t inode_of(int fd) {
    struct stat info;
    return fstat(fd, &info) ? 0 : info.st_ino;
}
static _Noreturn void die(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

/* 0: go on; 1: fail with `failure`; 2: do half; 3: do half, then die; 4: do all, then die. */
static int verdict(const char *name) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (failing) return 1;
    if (mode == OFF || mode == COUNT || number != target_call) return 0;
    snprintf(failed_call, sizeof failed_call, "%s", name);
    switch (mode) {
    case ONCE: return 1;
    case FROM_THEN_ON: failing = 1; return 1;
    case SHORT: failing = 1; return 2;
    case KILL_BEFORE: die();
    case KILL_TORN: return 3;
    default: return 4;
    }
}
#define JUDGE(what) int v = verdict(what); if (v == 1 || v == 2) { errno = failure; return -1; } if (v == 3) die()

static ssize_t do_pwrite(int fd, const void *data, size_t size, off_t at) {
    return syscall(SYS_pwrite64, fd, data, size, at);
}
static ssize_t any_pwrite(int fd, const void *data, size_t size, off_t at, const char *name) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return do_pwrite(fd, data, size, at);
    int v = verdict(name);
    if (v == 1 || (v == 2 && size < 2)) { errno = failure; return -1; }
    ssize_t done = do_pwrite(fd, data, v == 2 || v == 3 ? size / 2 : size, at);
    if (v >= 3) die();
    if (done > 0) note(WRITE, inode_of(fd), (uint64_t)at, data, (uint64_t)done, path, 0, 0);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return any_pwrite(fd, data, size, at, "pwrite"); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return any_pwrite(fd, data, size, at, "pwrite"); }
ssize_t write(int fd, const void *data, size_t size) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return syscall(SYS_write, fd, data, size);
    int v = verdict("write");
    if (v == 1 || (v == 2 && size < 2)) { errno = failure; return -1; }
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = syscall(SYS_write, fd, data, v == 2 || v == 3 ? size / 2 : size);
    if (v >= 3) die();
    if (done > 0) note(WRITE, inode_of(fd), (uint64_t)at, data, (uint64_t)done, path, 0, 0);
    return done;
}
/* Copies inside the kernel would not be recorded: programs then fall back to read and write. */
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    char path[4096];
    if (path_of(out, path, sizeof path)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, out, in, at, n);
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sendfile64(out, in, at, n); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) {
    char path[4096];
    if (path_of(out, path, sizeof path)) { errno = EXDEV; return -1; }
    return syscall(SYS_copy_file_range, in, a, out, b, n, f);
}
static int any_truncate(int fd, off_t size) {
    char path[4096];
    int ours = path_of(fd, path, sizeof path), kill_after = 0;
    if (ours) { JUDGE("ftruncate"); kill_after = v == 4; }
    int done = (int)syscall(SYS_ftruncate, fd, size);
    if (kill_after) die();
    if (ours && !done) note(TRUNCATE, inode_of(fd), (uint64_t)size, 0, 0, path, 0, 0);
    return done;
}
int ftruncate(int fd, off_t size) { return any_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return any_truncate(fd, size); }
static int any_sync(int fd, long number, const char *name) {
    char path[4096];
    int ours = path_of(fd, path, sizeof path), kill_after = 0;
    if (ours) { JUDGE(name); kill_after = v == 4; }
    int done = (int)syscall(number, fd);
    if (kill_after) die();
    if (ours && !done) {
        struct stat info;
        note(SYNC, inode_of(fd), 0, 0, 0, path, 0, !fstat(fd, &info) && S_ISDIR(info.st_mode));
    }
    return done;
}
int fsync(int fd) { return any_sync(fd, SYS_fsync, "fsync"); }
int fdatasync(int fd) { return any_sync(fd, SYS_fdatasync, "fdatasync"); }

static int any_open(int at, const char *path, int flags, mode_t permissions) {
    int ours = (flags & O_CREAT) && below(path), kill_after = 0, fresh = 0;
    if (ours) {
        fresh = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) != 0;
        JUDGE("open");
        kill_after = v == 4;
    }
    int fd = (int)syscall(SYS_openat, at, path, flags, permissions);
    if (kill_after) die();
    if (fd >= 0 && ours && fresh) note(CREATE, inode_of(fd), 0, 0, 0, path, 0, 0);
    else if (fd >= 0 && below(path) && (flags & O_TRUNC)) note(TRUNCATE, inode_of(fd), 0, 0, 0, path, 0, 0);
    return fd;
}
#define PERMISSIONS mode_t p = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); p = va_arg(a, mode_t); va_end(a); }
int open(const char *path, int flags, ...) { PERMISSIONS return any_open(AT_FDCWD, path, flags, p); }
int open64(const char *path, int flags, ...) { PERMISSIONS return any_open(AT_FDCWD, path, flags, p); }
int openat(int at, const char *path, int flags, ...) { PERMISSIONS return any_open(at, path, flags, p); }
int openat64(int at, const char *path, int flags, ...) { PERMISSIONS return any_open(at, path, flags, p); }

static int moved(const char *from, const char *to, const char *name, int op) {
    int ours = below(from) || below(to), kill_after = 0;
    if (ours) { JUDGE(name); kill_after = v == 4; }
    int done = op == RENAME ? (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to)
                            : (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (kill_after) die();
    if (ours && !done) note(op, 0, 0, 0, 0, from, to, 0);
    return done;
}
int rename(const char *from, const char *to) { return moved(from, to, "rename", RENAME); }
int link(const char *from, const char *to) { return moved(from, to, "link", LINK); }
int linkat(int a, const char *from, int b, const char *to, int f) { (void)a; (void)b; (void)f; return moved(from, to, "link", LINK); }
/* Removing never fails here: a full disk can always remove. It is counted for kills only. */
int unlink(const char *path) {
    int ours = below(path), kill_after = 0;
    if (ours && mode >= KILL_BEFORE && mode != COUNT) { int v = verdict("unlink"); if (v == 3) die(); kill_after = v == 4; }
    int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (kill_after) die();
    if (ours && !done) note(UNLINK, 0, 0, 0, 0, path, 0, 0);
    return done;
}
int unlinkat(int at, const char *path, int flags) {
    if (at == AT_FDCWD && !flags) return unlink(path);
    return (int)syscall(SYS_unlinkat, at, path, flags);
}
