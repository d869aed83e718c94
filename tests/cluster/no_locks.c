/* A file system without file locks, as network shares without a lock service: preloaded. */
#include <errno.h>
#include <sys/file.h>

int flock(int fd, int operation) {
    (void)fd;
    if (operation & LOCK_UN) return 0;
    errno = ENOLCK;
    return -1;
}
