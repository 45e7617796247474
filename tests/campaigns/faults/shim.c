/* Loaded before libc: makes the k-th file operation below a folder fail, or the process die.

   fault_arm(folder, k, kind, stays) arms it, fault_count() says how many operations there were.
   Operations that change something are counted alone for the kinds that concern only them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, FAIL_EIO, FAIL_ENOSPC, SHORT_WRITE, KILL };

static char prefix[4096];
static size_t prefix_length;
static long wanted;
static int kind, stays;
static atomic_long count;
static char failed_path[4096];
static atomic_int has_failed;

void fault_arm(const char *folder, long k, int what, int for_ever) {
  prefix_length = 0;
  strncpy(prefix, folder, sizeof prefix - 1);
  wanted = k;
  kind = what;
  stays = for_ever;
  atomic_store(&count, 0);
  atomic_store(&has_failed, 0);
  prefix_length = strlen(prefix);
}

long fault_count(void) { return atomic_load(&count); }

/* What is to be done instead of an operation on a path: 0, an errno, or -1 for a short write. */
static int fault(const char *path, int changes, int writes) {
  if (!prefix_length || !path || strncmp(path, prefix, prefix_length)) return 0;
  if (kind == FAIL_ENOSPC && !changes) return 0;
  if (kind == KILL && !changes) return 0;
  if (kind == SHORT_WRITE && !writes) return 0;
  if (stays && atomic_load(&has_failed))
    return strcmp(path, failed_path) ? 0 : (kind == FAIL_EIO ? EIO : ENOSPC);
  if (atomic_fetch_add(&count, 1) + 1 != wanted) return 0;
  strncpy(failed_path, path, sizeof failed_path - 1);
  atomic_store(&has_failed, 1);
  switch (kind) {
    case FAIL_EIO: return EIO;
    case FAIL_ENOSPC: return ENOSPC;
    case SHORT_WRITE: return -1;
    case KILL: kill(getpid(), SIGKILL); pause();
  }
  return 0;
}

static int fault_fd(int fd, int changes, int writes) {
  char link[64], path[4096];
  if (!prefix_length || fd < 3) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return fault(path, changes, writes);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define GUARD(found)            \
  do {                          \
    int problem = (found);      \
    if (problem > 0) {          \
      errno = problem;          \
      return -1;                \
    }                           \
  } while (0)
#define CHANGES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0)
#define OPEN(name)                                                  \
  int name(const char *path, int flags, ...) {                      \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    mode_t mode = va_arg(rest, mode_t);                             \
    va_end(rest);                                                   \
    GUARD(fault(path, CHANGES(flags), 0));                          \
    return REAL(name)(path, flags, mode);                           \
  }
#define OPENAT(name)                                                \
  int name(int folder, const char *path, int flags, ...) {          \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    mode_t mode = va_arg(rest, mode_t);                             \
    va_end(rest);                                                   \
    GUARD(fault(path, CHANGES(flags), 0));                          \
    return REAL(name)(folder, path, flags, mode);                   \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *to, size_t size) {
  GUARD(fault_fd(fd, 0, 0));
  return REAL(read)(fd, to, size);
}
ssize_t pread(int fd, void *to, size_t size, off_t at) {
  GUARD(fault_fd(fd, 0, 0));
  return REAL(pread)(fd, to, size, at);
}
ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
  GUARD(fault_fd(fd, 0, 0));
  return REAL(pread64)(fd, to, size, at);
}
ssize_t preadv64(int fd, const struct iovec *to, int parts, off64_t at) {
  GUARD(fault_fd(fd, 0, 0));
  return REAL(preadv64)(fd, to, parts, at);
}
ssize_t preadv64v2(int fd, const struct iovec *to, int parts, off64_t at, int flags) {
  GUARD(fault_fd(fd, 0, 0));
  return REAL(preadv64v2)(fd, to, parts, at, flags);
}

static size_t some(int problem, size_t size) { return problem < 0 && size > 1 ? size / 2 : size; }

ssize_t write(int fd, const void *from, size_t size) {
  int problem = fault_fd(fd, 1, 1);
  GUARD(problem);
  return REAL(write)(fd, from, some(problem, size));
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
  int problem = fault_fd(fd, 1, 1);
  GUARD(problem);
  return REAL(pwrite)(fd, from, some(problem, size), at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
  int problem = fault_fd(fd, 1, 1);
  GUARD(problem);
  return REAL(pwrite64)(fd, from, some(problem, size), at);
}
ssize_t writev(int fd, const struct iovec *from, int parts) {
  int problem = fault_fd(fd, 1, 1);
  GUARD(problem);
  return REAL(writev)(fd, from, problem < 0 ? 1 : parts);
}
int fsync(int fd) {
  GUARD(fault_fd(fd, 1, 0));
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  GUARD(fault_fd(fd, 1, 0));
  return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t size) {
  GUARD(fault_fd(fd, 1, 0));
  return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  GUARD(fault_fd(fd, 1, 0));
  return REAL(ftruncate64)(fd, size);
}
int rename(const char *from, const char *to) {
  GUARD(fault(from, 1, 0));
  return REAL(rename)(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  GUARD(fault(from, 1, 0));
  return REAL(renameat)(from_folder, from, to_folder, to);
}
int mkdir(const char *path, mode_t mode) {
  GUARD(fault(path, 1, 0));
  return REAL(mkdir)(path, mode);
}
int unlink(const char *path) {
  GUARD(fault(path, 1, 0));
  return REAL(unlink)(path);
}
